WRONG = "a detection of any class can hit"
HINT = "of another class"
REPLACE = [
    ('chosen = found["labels"] == label', 'chosen = found["labels"] > 0'),
]
