WRONG = "a short feature is taken for one of length 0"
HINT = "a short one has a direction"
REPLACE = [
    ("out=np.zeros(len(a)), where=norms > 0)", "out=np.zeros(len(a)), where=norms > 1e-3)"),
]
