WRONG = "points that fit only a scale of 0 are taken, and the crop is one color"
HINT = "only a scale of 0"
REPLACE = [
    (
        "(spread > MIN_SPREAD**2) & (fitted > MIN_SPREAD**2)",
        "spread > MIN_SPREAD**2",
    ),
]
