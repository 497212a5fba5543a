WRONG = "the fixed length multiplies the norm"
HINT = "it does not multiply it"
REPLACE = [
    (
        "size = self.scale if self.scale else norms",
        "size = self.scale * norms if self.scale else norms",
    ),
]
