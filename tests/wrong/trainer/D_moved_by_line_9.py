WRONG = "line 9 steps D's optimizer too"
HINT = "D's weights and D's buffers"
REPLACE = [
    (
        """        with optim.frozen(self.recognizer):
            terms""",
        """        if True:
            terms""",
    ),
    (
        'self._step(["modifier", "detector"], objective',
        "self._step(list(self.optimizers), objective",
    ),
]
