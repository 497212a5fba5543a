WRONG = "one threshold, fitted on all pairs, the test fold's too"
HINT = "or on all folds"
REPLACE = [
    ("best_threshold(scores[~test], same[~test])", "best_threshold(scores, same)"),
]
