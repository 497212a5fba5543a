WRONG = "Blur stretches the cells to the crop's corners"
HINT = "align_corners=False"
REPLACE = [
    ('mode="bilinear", align_corners=False)', 'mode="bilinear", align_corners=True)'),
]
