WRONG = "psi lacks the (-1)^k and rises again"
HINT = "Without the sign (-1)^k"
REPLACE = [
    ("sign = 1 - 2 * (k % 2)  # (-1)^k", "sign = 1"),
]
