WRONG = "the margin's lambda never anneals"
HINT = "must advance once an update"
REPLACE = [
    (
        """        self.recognizer.margin.advance()
""",
        "",
    ),
]
