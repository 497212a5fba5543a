WRONG = "frame_map always takes the envelope"
HINT = "passed on"
REPLACE = [
    (
        "range(1, classes + 1), iou_threshold, convention",
        'range(1, classes + 1), iou_threshold, "envelope"',
    ),
]
