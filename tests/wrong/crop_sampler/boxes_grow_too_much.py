WRONG = "each side moves out by 1.6 sides instead of half of that"
HINT = "about the box's center"
REPLACE = [
    ("keepdim=True) * (scale / 2)", "keepdim=True) * scale"),
]
