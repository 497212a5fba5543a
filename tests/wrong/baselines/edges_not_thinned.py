WRONG = "lines of equal neighbors stay two pixels wide"
HINT = "one stays"
REPLACE = [
    ("(strength >= after) & (strength > before)", "(strength >= after) & (strength >= before)"),
]
