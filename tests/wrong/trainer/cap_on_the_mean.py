WRONG = "the cap is put on the batch's mean and not on each face"
HINT = "cap each face"
REPLACE = [
    (
        'losses.modifier_adversarial(self._loss_D(crops, identities, reduction="none", margin=False), self.cap)',
        "losses.modifier_adversarial(self._loss_D(crops, identities, margin=False)[None], self.cap)",
    ),
]
