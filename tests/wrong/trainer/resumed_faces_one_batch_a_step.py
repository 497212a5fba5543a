WRONG = "a resumed row takes one batch of faces a step for used, not recognizer_updates"
HINT = "recognizer_updates batches of faces a step"
REPLACE = [
    (
        'start = loop.done["game"] * config.recognizer_updates',
        'start = loop.done["game"]',
    ),
]
