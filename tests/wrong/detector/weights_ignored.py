WRONG = "the weights file is never read"
HINT = "all but the classifier is loaded"
REPLACE = [
    (
        """    if not scratch:
        _load_body""",
        """    if False:
        _load_body""",
    ),
]
