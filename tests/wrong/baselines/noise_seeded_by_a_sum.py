WRONG = "the second call of seed 3 is the first of seed 4"
HINT = "by seed + calls"
REPLACE = [
    (
        "manual_seed((self.seed * 1_000_003 + self.calls) % 2**64)",
        "manual_seed(self.seed + self.calls)",
    ),
]
