WRONG = "widths count one pixel more, as in VOC's own script for whole pixels"
HINT = "no + 1"
REPLACE = [
    (
        "np.maximum(a[..., :2], b[..., :2])  # (..., 2)",
        "np.maximum(a[..., :2], b[..., :2]) + 1",
    ),
    (
        "(a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1)",
        "(a[..., 2:] - a[..., :2] + 1).prod(-1) + (b[..., 2:] - b[..., :2] + 1).prod(-1)",
    ),
]
