WRONG = "each fold's threshold is fitted on the fold itself"
HINT = "threshold fitted on the test fold"
REPLACE = [
    ("best_threshold(scores[~test], same[~test])", "best_threshold(scores[test], same[test])"),
]
