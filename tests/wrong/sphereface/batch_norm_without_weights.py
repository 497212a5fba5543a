WRONG = "a batch norm that hides from the parameter count"
HINT = "no batch norm anywhere"
REPLACE = [
    (
        """            nn.PReLU(channels_out, init=PRELU_INIT),
""",
        """            nn.BatchNorm2d(channels_out, affine=False),
            nn.PReLU(channels_out, init=PRELU_INIT),
""",
    ),
]
