WRONG = "ReLU instead of PReLU"
HINT = "PReLU has one slope per channel"
REPLACE = [
    ("nn.PReLU(channels_out, init=PRELU_INIT)", "nn.ReLU()"),
]
