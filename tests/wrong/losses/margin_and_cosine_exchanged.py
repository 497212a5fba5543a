WRONG = "(cos + lambda psi) / (1 + lambda): all margin at the start"
HINT = "lambda and 1 exchanged"
REPLACE = [
    (
        "share = 1 / (1 + margin_lambda) if margin else 0.0",
        "share = margin_lambda / (1 + margin_lambda) if margin else 0.0",
    ),
]
