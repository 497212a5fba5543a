WRONG = "L1's weight is applied again"
HINT = "the L1 weight counts once"
REPLACE = [
    (
        "losses.loss_l1(modified, pictures, self.config.l1_weight)}",
        "self.config.l1_weight * losses.loss_l1(modified, pictures, self.config.l1_weight)}",
    ),
]
