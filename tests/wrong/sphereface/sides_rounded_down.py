WRONG = "fc5 is sized as if odd sides were rounded down"
HINT = "halve a side rounding up"
REPLACE = [
    ("math.ceil(side / 16)", "side // 16"),
]
