WRONG = "psi lacks the -2k and jumps"
HINT = "without its -2k"
REPLACE = [
    ("return sign * cosine_of_multiple - 2 * k", "return sign * cosine_of_multiple"),
]
