WRONG = "fc5 is sized as if odd sides were rounded down"
HINT = "halve a side rounding up"
REPLACE = [
    (
        "height = math.ceil(height / 2)\n            width = math.ceil(width / 2)",
        "height = height // 2\n            width = width // 2",
    ),
]
