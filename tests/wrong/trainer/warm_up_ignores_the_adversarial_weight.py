WRONG = "in the warm-up L_adv counts once, whatever its weight"
HINT = "adversarial_weight, at 0"
REPLACE = [
    (
        "loss = config.adversarial_weight * L_adv + L_l1",
        "loss = L_adv + L_l1",
    ),
]
