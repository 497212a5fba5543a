WRONG = "the fixed length multiplies the norm"
HINT = "it does not multiply it"
REPLACE = [
    (
        "length = self.scale if self.scale else norms",
        "length = self.scale * norms if self.scale else norms",
    ),
]
