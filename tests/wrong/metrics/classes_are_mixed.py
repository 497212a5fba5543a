WRONG = "a detection of any class can hit"
HINT = "of another class"
REPLACE = [
    ("np.flatnonzero(found_labels == label)", "np.flatnonzero(found_labels > 0)"),
]
