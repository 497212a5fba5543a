WRONG = "fc5 is sized as if odd sides were rounded down"
HINT = "halve a side rounding up"
REPLACE = [
    (
        "height, width = math.ceil(height / 2), math.ceil(width / 2)",
        "height, width = height // 2, width // 2",
    ),
]
