WRONG = "the modified faces are not detached in D's step"
HINT = "detach the modified faces"
REPLACE = [
    ("self._crops(modified.detach(), points)", "self._crops(modified, points)"),
]
