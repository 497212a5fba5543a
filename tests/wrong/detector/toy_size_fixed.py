WRONG = "the toy sees 160 px whatever is asked for"
HINT = "the toy's too"
REPLACE = [
    (
        """        min_size=config.min_size,
        max_size=config.max_size,
""",
        """        min_size=160 if config.body == "toy" else config.min_size,
        max_size=160 if config.body == "toy" else config.max_size,
""",
    ),
]
