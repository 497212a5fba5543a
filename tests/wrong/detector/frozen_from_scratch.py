WRONG = "a body without weights is frozen as if it had some"
HINT = "from scratch everything learns"
REPLACE = [
    (
        "MobileBody(norm_layer, 6 if scratch else config.trainable_layers)",
        "MobileBody(norm_layer, config.trainable_layers)",
    ),
]
