WRONG = "strong down-scaling picks one sample a crop pixel where it should average"
HINT = "mean of ceil(side / S) samples"
REPLACE = [
    ("sampling_ratio=-1, aligned", "sampling_ratio=1, aligned"),
]
