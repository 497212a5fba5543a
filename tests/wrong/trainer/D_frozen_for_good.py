WRONG = "D is frozen for M's step and never learns again"
HINT = "freeze D for that step only"
REPLACE = [
    (
        """        with optim.frozen(self.recognizer):
            terms""",
        """        if self.recognizer.eval().requires_grad_(False):
            terms""",
    ),
]
