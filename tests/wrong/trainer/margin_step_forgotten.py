WRONG = "the margin's lambda never anneals"
HINT = "must advance once an update"
REPLACE = [
    (
        """            if last:
                self.recognizer.margin.advance()  # the margin counts D's updates
""",
        "",
    ),
]
