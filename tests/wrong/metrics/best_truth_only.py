WRONG = "a detection whose best truth is taken may not have another"
HINT = "still free"
REPLACE = [
    ("np.argmax(np.where(free[at], iou[rows], -1.0), axis=1)", "np.argmax(iou[rows], axis=1)"),
]
