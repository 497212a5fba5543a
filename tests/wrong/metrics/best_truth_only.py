WRONG = "a detection whose best truth is taken may not have another"
HINT = "still free"
REPLACE = [
    ("best = np.argmax(np.where(free, iou[row], -1.0))",
     "best = np.argmax(iou[row])"),
]
