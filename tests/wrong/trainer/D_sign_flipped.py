WRONG = "D raises its own losses"
HINT = "watch the sign"
REPLACE = [
    ("loss = -losses.loss_adv(", "loss = losses.loss_adv("),
]
