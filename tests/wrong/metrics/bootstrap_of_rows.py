WRONG = "pairs are drawn, not people"
HINT = "not rows"
REPLACE = [
    (
        """weight = np.bincount(rng.integers(len(people), size=len(people)), minlength=len(people))
""",
        """rows = len(first)
""",
    ),
    (
        "repeats = np.where(first == second, weight[first], weight[first] * weight[second])",
        "repeats = np.bincount(rng.integers(rows, size=rows), minlength=rows)",
    ),
]
