WRONG = "L1's weight is applied again"
HINT = "the L1 weight counts once"
REPLACE = [
    (
        """                    L_l1 = losses.loss_l1(f_new, f, config.l1_weight)
                else:""",
        """                    L_l1 = config.l1_weight * losses.loss_l1(f_new, f, config.l1_weight)
                else:""",
    ),
]
