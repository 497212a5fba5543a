WRONG = "line 9 takes A in the mode it came in"
HINT = "train() first"
REPLACE = [
    (
        """        config = self.config
        self.detector.train()
""",
        """        config = self.config
""",
    ),
]
