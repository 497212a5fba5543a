WRONG = "D learns from modified faces only"
HINT = "both kinds of face count"
REPLACE = [
    (
        "loss = -losses.loss_adv(on_modified.mean(), on_original.mean())",
        "loss = on_modified.mean()",
    ),
]
