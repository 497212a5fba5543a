WRONG = "a detection of any class can hit"
HINT = "of another class"
REPLACE = [
    ('chosen = frame["labels"] == label', 'chosen = frame["labels"] > 0'),
]
