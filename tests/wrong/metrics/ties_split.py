WRONG = "pairs of equal score are accepted one after the other"
HINT = "a tie counts half"
REPLACE = [
    (
        "values, place = np.unique(-scores, return_inverse=True)  # falling score; ties share a place",
        'values = place = np.argsort(np.argsort(-scores, kind="stable"))',
    ),
]
