WRONG = "a detection whose best truth is taken may not have another"
HINT = "still free"
REPLACE = [
    (
        """    iou = _iou(boxes[:, None], truths)  # (k, m)
""",
        """    iou = _iou(boxes[:, None], truths)
    first = iou.argmax(axis=1)
""",
    ),
    ("best = iou[i].argmax()", "best = first[i]"),
]
