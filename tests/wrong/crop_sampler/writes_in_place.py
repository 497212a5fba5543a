WRONG = "hand-made anonymizers paint over the frames that came in"
HINT = "not in place"
REPLACE = [
    ("painted = frames.clone()", "painted = frames"),
]
