WRONG = "D's loss on original faces has twice the weight"
HINT = "both kinds of face count"
REPLACE = [
    (
        "L_adv = losses.loss_adv(on_modified, on_original)",
        "L_adv = losses.loss_adv(on_modified, 2 * on_original)",
    ),
]
