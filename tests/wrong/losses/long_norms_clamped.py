WRONG = "an embedding longer than 30 counts as one of length 30"
HINT = "or clamped"
REPLACE = [
    (
        "length = self.scale if self.scale else norms",
        "length = self.scale or norms.clamp(max=30.0)",
    ),
]
