WRONG = "the weights file is never read"
HINT = "all but the classifier is loaded"
REPLACE = [
    (
        """    if config.weights is None:
        return""",
        """    if True:
        return""",
    ),
]
