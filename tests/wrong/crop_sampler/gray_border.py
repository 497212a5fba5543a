WRONG = "beyond the picture the aligned face is gray"
HINT = "gray in [-1, 1]"
REPLACE = [
    ("F.grid_sample(images - BLACK, grid", "F.grid_sample(images, grid"),
    ("return crops + BLACK", "return crops"),
]
