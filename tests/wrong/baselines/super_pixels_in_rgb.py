WRONG = "SLIC's distance is taken in RGB instead of Lab"
HINT = "Lab color"
REPLACE = [
    ("lab = _rgb_to_lab(crops)", "lab = crops"),
]
