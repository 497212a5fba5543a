WRONG = "M's term is read with D's margin"
HINT = "read without its margin"
REPLACE = [
    (
        "margin=self.config.adversarial_margin",
        "margin=True",
    ),
]
