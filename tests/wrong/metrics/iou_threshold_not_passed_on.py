WRONG = "frame_map is always at IoU 0.5"
HINT = "passed on"
REPLACE = [
    ("label, iou_threshold, convention) for label", "label, 0.5, convention) for label"),
]
