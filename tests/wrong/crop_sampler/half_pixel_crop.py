WRONG = "roi_align in its old convention: the crop is off by half a pixel"
HINT = "half a pixel"
REPLACE = [
    ("sampling_ratio=-1, aligned=True", "sampling_ratio=-1, aligned=False"),
]
