WRONG = "a detection whose best truth is taken may not have another"
HINT = "still free"
REPLACE = [
    (
        """.nan_to_num(0).numpy()  # (k, m); 0 for two boxes without area
""",
        """.nan_to_num(0).numpy()
    first = iou.argmax(axis=1)
""",
    ),
    ("best = iou[i].argmax()", "best = first[i]"),
]
