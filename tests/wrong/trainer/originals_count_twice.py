WRONG = "D's loss on original faces has twice the weight"
HINT = "both kinds of face count"
REPLACE = [
    (
        "-losses.loss_adv(on_modified.mean(), on_original.mean())",
        "-losses.loss_adv(on_modified.mean(), 2 * on_original.mean())",
    ),
]
