WRONG = "every seed draws the same noise"
HINT = "seeded by the calls alone"
REPLACE = [
    ("(self.seed * 1_000_003 + self.calls) % 2**64", "self.calls"),
]
