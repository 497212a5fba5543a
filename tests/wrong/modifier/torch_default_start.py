WRONG = "weights start as torch makes them"
HINT = "torch's default initialisation"
REPLACE = [
    (
        """        self.apply(_initialise)
""",
        "",
    ),
]
