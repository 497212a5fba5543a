WRONG = "a body without weights is frozen as if it had some"
HINT = "from scratch everything learns"
REPLACE = [
    ("    if scratch:\n        learning", "    if False:\n        learning"),
]
