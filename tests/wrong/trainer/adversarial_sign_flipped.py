WRONG = "M lowers L_D instead of raising it"
HINT = "with a minus sign"
REPLACE = [
    (
        "else losses.modifier_adversarial(per_face, self.cap)",
        "else -losses.modifier_adversarial(per_face, self.cap)",
    ),
]
