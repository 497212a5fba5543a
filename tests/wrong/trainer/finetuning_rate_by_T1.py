WRONG = "in T2 the rate drops after a share of T1's steps"
HINT = "its own number of steps"
REPLACE = [
    (
        "game.set_rates(step, config.T2)",
        "game.set_rates(step, config.T1)",
    ),
]
