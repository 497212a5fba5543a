WRONG = "the modified faces are not detached in D's step"
HINT = "detach the modified faces"
REPLACE = [
    ("modified.detach()", "modified"),
]
