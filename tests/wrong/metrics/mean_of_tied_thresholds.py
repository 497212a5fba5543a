WRONG = "the mean of the best thresholds is returned though it is none of them"
HINT = "where the mean of the best is worse"
REPLACE = [
    (
        """    if np.sum((scores > threshold) == same) < correct.max():
        threshold = float(candidates[ties[len(ties) // 2]])
""",
        "",
    ),
]
