WRONG = "where boxes overlap the first one wins"
HINT = "the later box is on top"
REPLACE = [
    (
        "for patch, (place, part) in zip(patches, places):",
        "for patch, (place, part) in [*zip(patches, places)][::-1]:",
    ),
]
