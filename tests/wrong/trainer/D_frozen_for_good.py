WRONG = "D is frozen for M's step and never learns again"
HINT = "freeze D for that step only"
REPLACE = [
    (
        "            parameter.requires_grad_(learns)",
        "            pass",
    ),
]
