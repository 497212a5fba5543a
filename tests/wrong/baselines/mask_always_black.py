WRONG = "the mask is black, whatever `value` says"
HINT = "unless its field says another"
REPLACE = [
    (
        "torch.full_like(crops, self.value)",
        "torch.full_like(crops, -1.0)",
    ),
]
