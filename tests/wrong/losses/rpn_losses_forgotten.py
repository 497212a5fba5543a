WRONG = "L_det is only the second stage's two losses"
HINT = "sum of all four"
REPLACE = [
    ("losses.get, DETECTION_LOSSES)", "losses.get, DETECTION_LOSSES[2:])"),
]
