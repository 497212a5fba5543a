WRONG = "rounding leaves cosines above 1"
HINT = "clamp the cosines"
REPLACE = [
    ("return cosines.clamp(-1.0, 1.0), norms", "return cosines, norms"),
]
