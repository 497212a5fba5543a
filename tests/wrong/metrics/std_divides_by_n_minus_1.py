WRONG = "the deviation over the folds divides by their number less one"
HINT = "not n - 1"
REPLACE = [
    ("np.std(accuracies)", "np.std(accuracies, ddof=1)"),
]
