WRONG = "a square is about a whole pixel"
HINT = "no // 2"
REPLACE = [
    ("center = (boxes[:, :2] + boxes[:, 2:]) / 2", "center = (boxes[:, :2] + boxes[:, 2:]) // 2"),
]
