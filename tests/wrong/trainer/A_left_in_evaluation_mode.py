WRONG = "line 9 takes A in the mode it came in"
HINT = "train() first"
REPLACE = [
    (
        """        self.detector.train()
        terms = []
        with optim.frozen(self.recognizer):
""",
        """        terms = []
        with optim.frozen(self.recognizer):
""",
    ),
]
