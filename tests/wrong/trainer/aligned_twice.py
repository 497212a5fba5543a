WRONG = "D's aligned crops are aligned once more, with the same landmarks"
HINT = "not aligned twice"
REPLACE = [
    (
        "crops = jitter_colors(crops, config.color_jitter)",
        "crops = aligned_crops(crops, points.repeat(2, 1, 1), config.crop_size)",
    ),
]
