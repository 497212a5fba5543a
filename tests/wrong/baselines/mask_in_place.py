WRONG = "Masked paints into the crops that it was given"
HINT = "no in-place change"
REPLACE = [
    ("return torch.full_like(crops, self.value)", "return crops.fill_(self.value)"),
]
