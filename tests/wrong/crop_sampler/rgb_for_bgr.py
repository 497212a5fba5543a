WRONG = "D gets RGB where SphereFace takes BGR"
HINT = "BGR/RGB swapped"
REPLACE = [
    ("aligned.flip(1)", "aligned"),
]
