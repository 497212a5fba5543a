WRONG = "where boxes overlap the first one wins"
HINT = "the later box is on top"
REPLACE = [
    ("face.new_full((len(frames) * height * width,), -1)",
     "face.new_full((len(frames) * height * width,), len(flat))"),
    ('place, face, "amax")',
     'place, face, "amin")'),
]
