WRONG = "line 11 moves M together with A"
HINT = "M moved by finetune"
REPLACE = [
    ("with torch.no_grad(), self.autocast:", "with self.autocast:"),
    (
        """            self._learn(L_det, last, "detector")""",
        """            both = [name for name in self.optimizers if name != "recognizer"]
            self._learn(L_det, last, *both)""",
    ),
]
