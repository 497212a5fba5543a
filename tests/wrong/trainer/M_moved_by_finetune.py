WRONG = "line 11 moves M together with A"
HINT = "M moved by finetune"
REPLACE = [
    (
        """        with torch.no_grad():
            repainted = self._repainted""",
        """        if True:
            repainted = self._repainted""",
    ),
    (
        """        self._apply("detector", detection)
        return {"L_det": detection}

    def copy_faces""",
        """        self._apply(("modifier", "detector") if self.modifier_weights else "detector", detection)
        return {"L_det": detection}

    def copy_faces""",
    ),
]
