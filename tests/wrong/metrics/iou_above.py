WRONG = "IoU of exactly one half does not count"
HINT = ">=, not >"
REPLACE = [
    ("iou[row, best] >= threshold",
     "iou[row, best] > threshold"),
]
