WRONG = "a large fold counts more than a small one"
HINT = "not over the pairs"
REPLACE = [
    ("mean = float(np.mean(accuracies))", "mean = float(np.mean(correct))"),
]
