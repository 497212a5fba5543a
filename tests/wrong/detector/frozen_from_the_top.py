WRONG = "the paper's body is frozen from the top"
HINT = "3 trainable layers freeze"
REPLACE = [("for stage in stages[: 5 - learning]:", "for stage in stages[learning:]:")]
