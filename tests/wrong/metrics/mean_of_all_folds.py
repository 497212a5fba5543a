WRONG = "the mean feature is that of all pairs"
HINT = "on the other folds only"
REPLACE = [
    (
        "np.concatenate(features[:, ~test])",
        "np.concatenate(features)",
    ),
]
