WRONG = "recall divides by the truths found, not by all"
HINT = "all truths, found or not"
REPLACE = [
    (
        "recall = true_positives / positives",
        "recall = true_positives / max(true_positives[-1:].sum(), 1)",
    ),
]
