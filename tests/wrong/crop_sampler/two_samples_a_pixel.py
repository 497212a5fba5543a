WRONG = "a crop pixel is the mean of 2 x 2 samples however much it covers"
HINT = "samples along each axis"
REPLACE = [
    ("sampling_ratio=-1, aligned=True", "sampling_ratio=2, aligned=True"),
]
