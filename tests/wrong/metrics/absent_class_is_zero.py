WRONG = "a class without truth counts as 0"
HINT = "as 0 it would lower it"
REPLACE = [
    (
        """    if positives == 0:
        return float("nan")""",
        """    if positives == 0:
        return 0.0""",
    ),
]
