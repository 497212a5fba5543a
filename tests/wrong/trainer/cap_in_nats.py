WRONG = "the cap is not in units of log N"
HINT = "adversarial_cap log N"
REPLACE = [
    (
        "config.adversarial_cap * math.log(recognizer.head.weight.shape[0])",
        "config.adversarial_cap",
    ),
]
