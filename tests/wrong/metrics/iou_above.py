WRONG = "IoU of exactly one half does not count"
HINT = ">=, not >"
REPLACE = [
    ("iou[i, best] >= threshold", "iou[i, best] > threshold"),
]
