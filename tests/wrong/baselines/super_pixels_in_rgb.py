WRONG = "SLIC's distance is taken in RGB instead of Lab"
HINT = "Lab color"
REPLACE = [
    ("torch.cat([_rgb_to_lab(crops), xy", "torch.cat([crops, xy"),
]
