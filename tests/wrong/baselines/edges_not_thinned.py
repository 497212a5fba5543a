WRONG = "lines of equal neighbors stay two pixels wide"
HINT = "one stays"
REPLACE = [
    ("(padded >= after) & (padded > before)", "(padded >= after) & (padded >= before)"),
]
