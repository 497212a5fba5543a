WRONG = "a body without weights is frozen as if it had some"
HINT = "from scratch everything learns"
REPLACE = [
    ("_stages(config.body) if scratch else config.trainable_layers", "config.trainable_layers"),
]
