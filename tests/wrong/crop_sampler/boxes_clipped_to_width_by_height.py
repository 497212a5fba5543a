WRONG = "enlarged boxes are clipped as if frame_size were (W, H)"
HINT = "frame_size is (H, W)"
REPLACE = [
    ("high, wide = frame_size", "wide, high = frame_size"),
]
