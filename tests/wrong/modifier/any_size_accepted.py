WRONG = "sides that two halvings cannot halve are accepted"
HINT = "size a multiple of 4"
REPLACE = [
    ("if self.size < SMALLEST_SIZE or self.size % 4 != 0:", "if self.size < 1:"),
]
