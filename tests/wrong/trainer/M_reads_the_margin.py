WRONG = "M's term is read with D's margin"
HINT = "read without its margin"
REPLACE = [
    (
        'reduction="none", margin=False)',
        'reduction="none")',
    ),
]
