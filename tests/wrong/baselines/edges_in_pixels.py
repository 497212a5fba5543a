WRONG = "the edge thresholds count per pixel, so the drawing depends on the crop's size"
HINT = "1/64 of the side"
REPLACE = [
    ("strength = torch.hypot(gx, gy) * unit", "strength = torch.hypot(gx, gy)"),
]
