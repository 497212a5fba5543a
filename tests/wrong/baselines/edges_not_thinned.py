WRONG = "lines of equal neighbours stay two pixels wide"
HINT = "one stays"
REPLACE = [
    ("(strength >= after) & (strength > before)", "(strength >= after) & (strength >= before)"),
]
