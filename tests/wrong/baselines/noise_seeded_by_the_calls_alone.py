WRONG = "every seed draws the same noise"
HINT = "seeded by the calls alone"
REPLACE = [
    ("manual_seed(self.seed * 1_000_003 + self.calls)", "manual_seed(self.calls)"),
]
