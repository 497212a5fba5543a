WRONG = "where boxes overlap the first one wins"
HINT = "the later box is on top"
REPLACE = [
    (
        "for patch, (frame, left, top, wide, high) in zip(patches, regions):",
        "for patch, (frame, left, top, wide, high) in [*zip(patches, regions)][::-1]:",
    ),
]
