WRONG = "boxes outside their frame are cut off without a word"
HINT = "raises ValueError"
REPLACE = [
    ("good = inside & (", "good = torch.ones_like(inside) | ("),
]
