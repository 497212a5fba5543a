WRONG = "beyond the picture the aligned face is grey"
HINT = "grey in [-1, 1]"
REPLACE = [
    ("F.grid_sample(images - BLACK, grid", "F.grid_sample(images, grid"),
    ("align_corners=False) + BLACK", "align_corners=False)"),
]
