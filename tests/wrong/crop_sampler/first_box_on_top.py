WRONG = "where boxes overlap the first one wins"
HINT = "the later box is on top"
REPLACE = [
    (
        "in zip(patches, rows.tolist(), strict=True):",
        "in [*zip(patches, rows.tolist(), strict=True)][::-1]:",
    ),
]
