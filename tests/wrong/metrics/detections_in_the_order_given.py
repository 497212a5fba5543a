WRONG = "a frame's detections take truths in the order given, not by score"
HINT = "not in the order given"
REPLACE = [
    (
        """        chosen = chosen[np.argsort(-scores[chosen], kind="stable")]
""",
        "",
    ),
    (
        "        ap.append(_area(hits, ",
        """        hits = hits[np.argsort(-scores[chosen], kind="stable")]
        ap.append(_area(hits, """,
    ),
]
