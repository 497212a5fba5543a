WRONG = "pairs of equal score are accepted one after the other"
HINT = "a tie counts half"
REPLACE = [
    (
        "values, index = np.unique(-scores, return_inverse=True)",
        'values = index = np.argsort(np.argsort(-scores, kind="stable"))',
    ),
]
