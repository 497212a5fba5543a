WRONG = "enlarged boxes are clipped as if frame_size were (W, H)"
HINT = "frame_size is (H, W)"
REPLACE = [
    ("center + half], 1), frame_size)", "center + half], 1), frame_size[::-1])"),
]
