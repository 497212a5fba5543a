WRONG = "(cos + lambda psi) / (1 + lambda): all margin at the start"
HINT = "lambda and 1 exchanged"
REPLACE = [
    (
        "share = 1 / (1 + self.margin_lambda)",
        "share = self.margin_lambda / (1 + self.margin_lambda)",
    ),
]
