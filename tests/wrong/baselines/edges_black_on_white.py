WRONG = "lines are black, the ground is white"
HINT = "not black on white"
REPLACE = [
    ("(edge.to(crops.dtype) * 2 - 1)", "(1 - edge.to(crops.dtype) * 2)"),
]
