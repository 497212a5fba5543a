WRONG = "frame_map is always at IoU 0.5"
HINT = "passed on"
REPLACE = [
    ("range(1, classes + 1), iou_threshold, convention", "range(1, classes + 1), 0.5, convention"),
]
