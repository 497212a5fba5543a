WRONG = "detections are ranked within their frame but not across frames"
HINT = "Sort all frames' detections"
REPLACE = [
    (
        'np.argsort(-scores[chosen], kind="stable")',
        "np.lexsort((-scores[chosen], found_frame[chosen]))",
    ),
]
