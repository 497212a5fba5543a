WRONG = "L_det is only the second stage's two losses"
HINT = "sum of all four"
REPLACE = [
    ("for name in DETECTION_LOSSES)", "for name in DETECTION_LOSSES[2:])"),
]
