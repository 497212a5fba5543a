WRONG = "each side moves out by 1.6 half sides more than it should"
HINT = "about the center"
REPLACE = [
    ("boxes[:, :2]) * (scale / 2)", "boxes[:, :2]) * scale"),
]
