WRONG = "one residual block is missing"
HINT = "a block missing"
REPLACE = [
    ("for _ in range(config.blocks)", "for _ in range(config.blocks - 1)"),
]
