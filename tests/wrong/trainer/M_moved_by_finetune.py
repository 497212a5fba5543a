WRONG = "line 11 moves M together with A"
HINT = "M moved by finetune"
REPLACE = [
    ("                with torch.no_grad():\n", "                if True:\n"),
    (
        '        return self._step(["detector"], objective',
        """        both = [name for name in self.optimizers if name != "recognizer"]
        return self._step(both, objective""",
    ),
]
