WRONG = "the paper's body has the anchors of a short side of 600 px at every size"
HINT = "anchors scale with min_size"
REPLACE = [
    (
        "tuple(round(size * config.min_size / 600) for size in C4_ANCHORS)",
        "C4_ANCHORS",
    ),
]
