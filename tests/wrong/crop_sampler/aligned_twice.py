WRONG = "the aligned crop is aligned once more with the same landmarks"
HINT = "not twice"
REPLACE = [
    (
        "        return crops + BLACK  # (B, 3, h, w)",
        """        grid = _sampling_grid(crops, landmarks.to(images.dtype), out_size)
        crops = F.grid_sample(crops, grid, "bilinear", "zeros", align_corners=False)
        return crops + BLACK""",
    ),
]
