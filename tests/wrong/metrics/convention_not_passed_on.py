WRONG = "frame_map always takes the envelope"
HINT = "passed on"
REPLACE = [
    ("label, iou_threshold, convention) for label", "label, iou_threshold) for label"),
]
