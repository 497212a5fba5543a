WRONG = "M's step shows A its frames once more, which moves A's batch norm a second time"
HINT = "moves A's batch-norm twice"
REPLACE = [
    (
        """lines 4-8
                    L_det""",
        """lines 4-8
                    self.detector.losses(v_new.detach(), objects)
                    L_det""",
    ),
]
