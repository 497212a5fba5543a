WRONG = "line 11 moves M together with A"
HINT = "M moved by finetune"
REPLACE = [
    ("""        with torch.no_grad():
            repainted = repainted_frames""",
     """        if True:
            repainted = repainted_frames"""),
    ("""        self._apply("detector", detection)
        return {"L_det": detection}

    def copy_faces""",
     """        self._apply(("modifier", "detector") if self.modifier_weights else "detector", detection)
        return {"L_det": detection}

    def copy_faces"""),
]
