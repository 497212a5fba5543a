WRONG = "line 3 gets the original faces in place of M's"
HINT = "not f twice"
REPLACE = [
    (
        "game.update_recognizer(f, modified, landmarks, people)  # line 3",
        "game.update_recognizer(f, f, landmarks, people)  # line 3",
    ),
]
