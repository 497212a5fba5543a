WRONG = "a body without weights is frozen as if it had some"
HINT = "from scratch everything learns"
REPLACE = [
    ("trainable_layers=6 if scratch else config.trainable_layers",
     "trainable_layers=config.trainable_layers"),
]
