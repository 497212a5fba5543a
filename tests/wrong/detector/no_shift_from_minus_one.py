WRONG = "ImageNet's constants for [0, 1] are applied to frames in [-1, 1]"
HINT = "frames are RGB in [-1, 1]"
REPLACE = [
    ("[2 * mean - 1 for mean in IMAGENET_MEAN]", "list(IMAGENET_MEAN)"),
    ("[2 * std for std in IMAGENET_STD]", "list(IMAGENET_STD)"),
]
