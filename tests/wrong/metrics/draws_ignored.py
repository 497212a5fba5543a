WRONG = "the number of draws is 1,000 whatever is asked for"
HINT = "Draw n times"
REPLACE = [
    ("for _ in range(n):", "for _ in range(1000):"),
]
