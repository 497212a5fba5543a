WRONG = "L_adv counts once, whatever its weight"
HINT = "adversarial_weight, at 0"
REPLACE = [
    (
        "config.detection_weight * L_det, config.adversarial_weight * L_adv, L_l1",
        "config.detection_weight * L_det, L_adv, L_l1",
    )
]
