WRONG = "the mean color is that of the whole batch"
HINT = "not of the batch"
REPLACE = [
    (
        "mean = faces.mean(dim=(2, 3), keepdim=True)",
        "mean = faces.mean(dim=(0, 2, 3), keepdim=True)",
    ),
]
