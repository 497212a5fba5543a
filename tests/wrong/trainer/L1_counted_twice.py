WRONG = "L1's weight is applied again"
HINT = "the L1 weight counts once"
REPLACE = [
    (
        """                L_l1 = self.copy_objective(f, f_new, points, people)
                loss = losses.full_objective(""",
        """                L_l1 = config.l1_weight * self.copy_objective(f, f_new, points, people)
                loss = losses.full_objective(""",
    ),
]
