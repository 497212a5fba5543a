WRONG = "D raises its own losses"
HINT = "watch the sign"
REPLACE = [
    (
        'return -L_adv, {"D',
        'return L_adv, {"D',
    ),
]
