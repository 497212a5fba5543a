WRONG = "the rate drops one step early"
HINT = "number > and not >="
REPLACE = [
    ("if number > self.config.lr_drop_at * steps", "if number >= self.config.lr_drop_at * steps"),
]
