WRONG = "the clusters are updated for five rounds, whatever `iterations` says"
HINT = "so is iterations"
REPLACE = [
    (
        "for _ in range(self.iterations):",
        "for _ in range(5):",
    ),
]
