WRONG = "equation 3 with squares"
HINT = "no squares"
REPLACE = [
    (
        "return weight * (modified - original).abs().mean()",
        "return weight * (modified - original).pow(2).mean()",
    ),
]
