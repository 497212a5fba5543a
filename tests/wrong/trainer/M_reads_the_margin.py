WRONG = "M's term is read with D's margin"
HINT = "read without its margin"
REPLACE = [
    ('reduction="none", margin=False), self.cap)', 'reduction="none"), self.cap)'),
]
