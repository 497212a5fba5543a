WRONG = "D gets RGB where SphereFace takes BGR"
HINT = "BGR/RGB swapped"
REPLACE = [
    ("aligned[:, [2, 1, 0]]",
     "aligned"),
]
