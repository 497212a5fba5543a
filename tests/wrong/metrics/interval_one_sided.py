WRONG = "the interval leaves out 1 - level below and nothing above"
HINT = "one-sided interval"
REPLACE = [
    ("[(1 - level) / 2, (1 + level) / 2]", "[1 - level, 1.0]"),
]
