WRONG = "labels are counted from 0, so the first action is taught as background: class 0"
HINT = "labels must come out as they went in"
REPLACE = [
    ("torch.int64, non_blocking)", "torch.int64, non_blocking) - 1"),
]
