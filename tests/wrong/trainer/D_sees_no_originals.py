WRONG = "D learns from modified faces only"
HINT = "both kinds of face count"
REPLACE = [
    (
        "loss = -L_adv / config.accumulate",
        "loss = on_modified / config.accumulate",
    ),
]
