WRONG = "the rate drops one step early"
HINT = "step > and not >="
REPLACE = [
    (
        "if step > self.config.lr_drop_at * steps",
        "if step >= self.config.lr_drop_at * steps",
    ),
]
