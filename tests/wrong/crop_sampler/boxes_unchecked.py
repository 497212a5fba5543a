WRONG = "boxes outside their frame are cut off without a word"
HINT = "raises ValueError"
REPLACE = [
    ("    if not inside.all():", "    if False:"),
]
