WRONG = "the sampler takes pixel centers for corners: the aligned face is off by half a pixel"
HINT = "half a pixel"
REPLACE = [
    ('"bilinear", "zeros", align_corners=False)', '"bilinear", "zeros", align_corners=True)'),
]
