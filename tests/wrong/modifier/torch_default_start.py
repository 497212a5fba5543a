WRONG = "weights start as torch makes them"
HINT = "torch's default initialization"
REPLACE = [
    (
        """        self.apply(_initialize)
""",
        "",
    ),
]
