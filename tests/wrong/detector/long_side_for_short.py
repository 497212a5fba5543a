WRONG = "frames are resized so that the long side is min_size"
HINT = "the short side is min_size"
REPLACE = [
    (
        "        max_size=config.max_size,\n",
        "        max_size=config.min_size,\n",
    ),
]
