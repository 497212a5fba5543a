WRONG = "hardly any detection is suppressed"
HINT = "an IoU of 0.5"
REPLACE = [
    (
        '        "box_detections_per_img": 10,\n',
        '        "box_detections_per_img": 10,\n        "box_nms_thresh": 0.99,\n',
    )
]
