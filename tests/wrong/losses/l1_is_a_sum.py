WRONG = "equation 3 sums over pixels"
HINT = "a sum would make lambda mean something else"
REPLACE = [
    (
        "return weight * (modified - original).abs().mean()",
        "return weight * (modified - original).abs().sum() / len(modified)",
    ),
]
