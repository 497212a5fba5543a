WRONG = "D raises its own losses"
HINT = "watch the sign"
REPLACE = [
    (
        "self._learn(-L_adv, last",
        "self._learn(L_adv, last",
    ),
]
