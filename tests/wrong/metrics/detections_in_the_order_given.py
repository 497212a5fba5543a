WRONG = "a frame's detections take truths in the order given, not by score"
HINT = "not in the order given"
REPLACE = [
    ('for i in np.argsort(-scores, kind="stable"):', "for i in range(len(scores)):"),
]
