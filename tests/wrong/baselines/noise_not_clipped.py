WRONG = "the noisy picture leaves [-1, 1]"
HINT = "clip"
REPLACE = [
    ("* draw).clamp(-1, 1)", "* draw)"),
]
