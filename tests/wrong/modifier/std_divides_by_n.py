WRONG = "the input's deviation divides by the number of pixels"
HINT = "std divides by n - 1"
REPLACE = [
    (
        "faces.std(dim=(2, 3), keepdim=True)",
        "faces.std(dim=(2, 3), keepdim=True, correction=0)",
    ),
]
