WRONG = "the aligned crop is aligned once more with the same landmarks"
HINT = "not twice"
REPLACE = [
    (
        'return F.grid_sample(images - BLACK, grid, "bilinear", "zeros", align_corners=False) + BLACK',
        """once = F.grid_sample(images - BLACK, grid, "bilinear", "zeros", align_corners=False)
        grid = _sampling_grid(once.shape, landmarks.to(images), out_size)
        return F.grid_sample(once, grid, "bilinear", "zeros", align_corners=False) + BLACK""",
    ),
]
