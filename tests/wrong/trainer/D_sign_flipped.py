WRONG = "D raises its own losses"
HINT = "watch the sign"
REPLACE = [
    (
        "loss = -L_adv / config.accumulate",
        "loss = L_adv / config.accumulate",
    ),
]
