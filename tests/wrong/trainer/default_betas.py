WRONG = "Adam runs with its default betas"
HINT = "betas are (0.5, 0.999)"
REPLACE = [
    (
        "betas = (config.adam_beta1, config.adam_beta2)",
        "betas = (0.9, 0.999)",
    ),
]
