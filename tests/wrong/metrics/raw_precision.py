WRONG = "the envelope convention forgets the envelope"
HINT = "the best precision at this recall or a higher one"
REPLACE = [
    ("np.maximum.accumulate(precision[::-1])[::-1]", "precision"),
]
