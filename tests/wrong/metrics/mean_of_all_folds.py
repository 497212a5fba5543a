WRONG = "the mean feature is that of all pairs"
HINT = "on the other folds only"
REPLACE = [
    (
        "np.concatenate([features_a[~test], features_b[~test]])",
        "np.concatenate([features_a, features_b])",
    ),
]
