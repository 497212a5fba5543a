WRONG = "a frame's detections take truths in the order given, not by score"
HINT = "not in the order given"
REPLACE = [
    ('order = np.argsort(-frame_scores, kind="stable")',
     "order = np.arange(len(frame_scores))"),
]
