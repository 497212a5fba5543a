WRONG = "a large fold counts more than a small one"
HINT = "not over the pairs"
REPLACE = [
    ("mean = float(accuracies.mean())", "mean = float(correct.mean())"),
]
