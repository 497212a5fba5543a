WRONG = "the first pairs are fold 0, the next fold 1, whatever the labels say"
HINT = "folds by position"
REPLACE = [
    (
        "    names = np.unique(folds)\n",
        "    names = np.unique(folds)\n    folds = np.sort(folds)\n",
    ),
]
