WRONG = "the cap is put on the batch's mean and not on each face"
HINT = "cap each face"
REPLACE = [
    (
        "losses.modifier_adversarial(per_face, self.cap)",
        "losses.modifier_adversarial(per_face.mean()[None], self.cap)",
    ),
]
