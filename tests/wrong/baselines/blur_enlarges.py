WRONG = "Blur takes crops with fewer pixels than cells and blurs nothing"
HINT = "too small"
REPLACE = [
    ("_side(crops, least=self.cells)", "_side(crops)"),
]
