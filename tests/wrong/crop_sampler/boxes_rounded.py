WRONG = "boxes are rounded to whole pixels"
HINT = "rounded boxes"
REPLACE = [
    (
        "flat = torch.cat(list(boxes)).to(frames.dtype)",
        "flat = torch.cat(list(boxes)).to(frames.dtype).round()",
    ),
]
