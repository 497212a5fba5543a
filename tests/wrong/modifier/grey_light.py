WRONG = "one light for all three colours"
HINT = "of each colour"
REPLACE = [
    (
        "mean = faces.mean(dim=(2, 3), keepdim=True)",
        "mean = faces.mean(dim=(1, 2, 3), keepdim=True)",
    ),
]
