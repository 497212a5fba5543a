WRONG = "M lowers L_D instead of raising it"
HINT = "with a minus sign"
REPLACE = [
    ("        return losses.modifier_adversarial(", "        return -losses.modifier_adversarial("),
]
