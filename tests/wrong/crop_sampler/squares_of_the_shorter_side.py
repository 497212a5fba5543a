WRONG = "the square is 1.6 times the shorter side: forehead and chin stay outside"
HINT = "the longer side of the box"
REPLACE = [
    ("half = sides.amax(1,", "half = sides.amin(1,"),
]
