WRONG = "ImageNet's constants for [0, 1] are applied to frames in [-1, 1]"
HINT = "frames are RGB in [-1, 1]"
REPLACE = [
    ("image_mean=[2 * mean - 1 for mean in IMAGENET_MEAN]", "image_mean=list(IMAGENET_MEAN)"),
    ("image_std=[2 * std for std in IMAGENET_STD]", "image_std=list(IMAGENET_STD)"),
]
