WRONG = "every pixel that the box touches is written, not only those whose center is in it"
HINT = "paste outside the box"
REPLACE = [
    ("start = (boxes[:, :2] - 0.5).ceil().long()", "start = boxes[:, :2].floor().long()"),
    (
        "return start, (boxes[:, 2:] - 0.5).ceil().long() - start",
        "return start, boxes[:, 2:].ceil().long() - start",
    ),
]
