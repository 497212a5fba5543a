WRONG = "M warms up at the game's learning rate"
HINT = "not the game's rate"
REPLACE = [
    ("lr_modifier=game.config.lr_warmup", "lr_modifier=game.config.lr_modifier"),
]
