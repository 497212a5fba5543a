WRONG = "every call draws the same noise"
HINT = "fresh noise each call"
REPLACE = [
    (
        """        self.calls += 1
""",
        "",
    ),
]
