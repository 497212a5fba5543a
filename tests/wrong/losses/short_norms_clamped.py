WRONG = "an embedding shorter than 1 counts as one of length 1"
HINT = "or clamped"
REPLACE = [
    ("length = self.scale if self.scale else norms", "length = self.scale or norms.clamp(min=1.0)"),
]
