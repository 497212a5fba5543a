WRONG = "IoU of exactly one half does not count"
HINT = ">=, not >"
REPLACE = [
    ("iou[rows, best] >= threshold", "iou[rows, best] > threshold"),
]
