WRONG = "labels are counted from 0, so the first action is taught as background: class 0"
HINT = "labels must come out as they went in"
REPLACE = [
    ('"labels": labels.to(frames.device, torch.int64, non_blocking=True)',
     '"labels": labels.to(frames.device, torch.int64, non_blocking=True) - 1'),
]
