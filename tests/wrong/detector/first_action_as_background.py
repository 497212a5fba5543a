WRONG = "labels are counted from 0, so the first action is taught as background: class 0"
HINT = "labels must come out as they went in"
REPLACE = [
    (
        '"labels": labels.to(dtype=torch.int64, **soon)',
        '"labels": labels.to(dtype=torch.int64, **soon) - 1',
    ),
]
