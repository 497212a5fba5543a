WRONG = "the frames that came in are painted over"
HINT = "changed in place"
REPLACE = [
    ("pasted = frames.clone()", "pasted = frames"),
]
