WRONG = "the toy sees 160 px whatever is asked for"
HINT = "the toy's too"
REPLACE = [
    (
        """        ToyBody(),
        min_size=config.min_size,
        max_size=config.max_size,
""",
        """        ToyBody(),
        min_size=160,
        max_size=160,
""",
    ),
]
