WRONG = "D raises its own losses"
HINT = "watch the sign"
REPLACE = [
    (
        "backward_and_step(-L_adv /",
        "backward_and_step(L_adv /",
    ),
]
