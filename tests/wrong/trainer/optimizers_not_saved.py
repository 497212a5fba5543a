WRONG = "the optimizers are not among what a checkpoint holds"
HINT = "optimizers not saved"
REPLACE = [
    (
        '            parts[f"{name}_optimizer"] = optimizer\n',
        "            pass\n",
    ),
]
