WRONG = "the lowest of the best thresholds is returned, not their mean"
HINT = "not the first of them"
REPLACE = [
    ("threshold = float(candidates[ties].mean())", "threshold = float(candidates[ties[0]])"),
]
