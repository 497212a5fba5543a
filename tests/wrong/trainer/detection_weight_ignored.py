WRONG = "L_det counts once, whatever its weight"
HINT = "detection_weight, at 0"
REPLACE = [
    (
        "config.detection_weight * L_det, config.adversarial_weight * L_adv, L_l1",
        "L_det, config.adversarial_weight * L_adv, L_l1",
    )
]
