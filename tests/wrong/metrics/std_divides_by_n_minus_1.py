WRONG = "the deviation over the folds divides by their number less one"
HINT = "not n - 1"
REPLACE = [
    ("accuracies.std()", "accuracies.std(ddof=1)"),
]
