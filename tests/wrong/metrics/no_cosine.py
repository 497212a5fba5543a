WRONG = "the score is a plain product, lengths and all"
HINT = "before the lengths are taken"
REPLACE = [
    ("np.divide((a * b).sum(1), norms, out=np.zeros(len(a)), where=norms > 0)", "(a * b).sum(1)"),
]
