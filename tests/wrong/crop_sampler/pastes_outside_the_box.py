WRONG = "every pixel that the box touches is written, not only those whose center is in it"
HINT = "paste outside the box"
REPLACE = [
    ("start = (flat[:, :2] - 0.5).ceil().long()", "start = flat[:, :2].floor().long()"),
    ("end = (flat[:, 2:] - 0.5).ceil().long()", "end = flat[:, 2:].ceil().long()"),
]
