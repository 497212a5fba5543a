WRONG = "a truth can be hit by any number of detections"
HINT = "one truth matched twice"
REPLACE = [
    (
        """        if hits[i]:
            iou[:, best] = -1.0  # matched
""",
        "",
    ),
]
