WRONG = "detections are ranked within their frame but not across frames"
HINT = "Sort all frames' detections"
REPLACE = [
    (
        "np.argsort(-np.concatenate(scores),",
        "np.argsort(np.concatenate([9.0 * frame - one for frame, one in enumerate(scores)]),",
    ),
]
