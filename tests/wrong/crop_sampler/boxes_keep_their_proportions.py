WRONG = "both sides grow by 1.6, so that the region is no square"
HINT = "a square about the box's center"
REPLACE = [
    ("half = sides.amax(1, keepdim=True) * (scale / 2)", "half = sides * (scale / 2)"),
]
