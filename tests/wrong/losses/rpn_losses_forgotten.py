WRONG = "L_det is only the second stage's two losses"
HINT = "sum of all four"
REPLACE = [
    ("return proposals + losses", "return losses"),
]
