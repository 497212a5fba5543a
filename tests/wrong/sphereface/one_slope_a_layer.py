WRONG = "PReLU with a single slope for all channels"
HINT = "one slope a layer"
REPLACE = [
    ("nn.PReLU(channels_out, init=PRELU_INIT)", "nn.PReLU(init=PRELU_INIT)"),
]
