WRONG = "one mean for all three colors"
HINT = "of each color"
REPLACE = [
    (
        "mean = faces.mean(dim=(2, 3), keepdim=True)",
        "mean = faces.mean(dim=(1, 2, 3), keepdim=True)",
    ),
]
