WRONG = "detections are ranked within their frame but not across frames"
HINT = "Sort all frames' detections"
REPLACE = [
    ("""    hits = hits[np.argsort(-scores, kind="stable")]
""",
     ""),
]
