WRONG = "depth 20 has four units in the second stage and two in the third"
HINT = "Residual units per stage"
REPLACE = [
    ("20: (1, 2, 4, 1)", "20: (1, 4, 2, 1)"),
]
