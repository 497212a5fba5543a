WRONG = "a truth can be hit by any number of detections"
HINT = "one truth matched twice"
REPLACE = [
    (
        """        free[at, best] &= ~hits[rows]
""",
        "",
    ),
]
