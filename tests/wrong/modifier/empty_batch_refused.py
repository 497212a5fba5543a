WRONG = "a batch without faces is taken for a mistake"
HINT = "A batch of no faces comes back"
REPLACE = [
    (
        "if faces.shape[1:] != wanted:",
        "if faces.shape[1:] != wanted or len(faces) == 0:",
    ),
]
