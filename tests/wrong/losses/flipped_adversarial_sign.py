WRONG = "L_adv is plus both losses: D would be trained to fail"
HINT = "Flipped adversarial sign"
REPLACE = [
    ("return -loss_modified - loss_original", "return loss_modified + loss_original"),
]
