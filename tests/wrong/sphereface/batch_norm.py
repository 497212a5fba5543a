WRONG = "a batch norm after each conv"
HINT = "no batch norm anywhere"
REPLACE = [
    (
        """            nn.PReLU(channels_out, init=PRELU_INIT),
""",
        """            nn.BatchNorm2d(channels_out),
            nn.PReLU(channels_out, init=PRELU_INIT),
""",
    ),
]
