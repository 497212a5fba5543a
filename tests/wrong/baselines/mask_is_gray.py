WRONG = "the mask is gray: 0 is the middle of [-1, 1]"
HINT = "gray mask"
REPLACE = [
    ("value: float = -1.0", "value: float = 0.0"),
]
