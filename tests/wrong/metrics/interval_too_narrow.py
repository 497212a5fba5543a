WRONG = "1 - level is left out on each side: two one-sided bounds"
HINT = "one-sided interval"
REPLACE = [
    ("[(1 - level) / 2, (1 + level) / 2]", "[1 - level, level]"),
]
