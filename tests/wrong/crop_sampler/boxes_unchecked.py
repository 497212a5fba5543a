WRONG = "boxes without area are taken without a word"
HINT = "raises ValueError"
REPLACE = [
    ("good = boxes.isfinite().all(1) & (", "good = torch.ones(len(boxes), dtype=torch.bool) | ("),
]
