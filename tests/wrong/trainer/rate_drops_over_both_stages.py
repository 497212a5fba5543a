WRONG = "T1 and T2 are counted as one stage: A's fine-tuning begins at a tenth"
HINT = "no drop over both"
REPLACE = [
    (
        "        game.set_rates(step, config.T1)\n",
        "        game.set_rates(step, config.T1 + config.T2)\n",
    ),
    (
        "        game.set_rates(step, config.T2)\n",
        "        game.set_rates(config.T1 + step, config.T1 + config.T2)\n",
    ),
]
