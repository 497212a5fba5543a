WRONG = "M's step shows A its frames once more, which moves A's batch norm a second time"
HINT = "moves A's batch-norm twice"
REPLACE = [
    (
        """        detection = self._loss_det(repainted, targets)
        if not""",
        """        self.detector.losses(repainted.detach(), targets)
        detection = self._loss_det(repainted, targets)
        if not""",
    ),
]
