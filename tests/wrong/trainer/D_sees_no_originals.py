WRONG = "D learns from modified faces only"
HINT = "both kinds of face count"
REPLACE = [
    (
        "backward_and_step(-L_adv /",
        "backward_and_step(on_modified /",
    ),
]
