WRONG = "a residual block drops half of its features while training"
HINT = "no dropout"
REPLACE = [
    (
        """            nn.ReLU(inplace=True),
            nn.ReflectionPad2d(1),
""",
        """            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.ReflectionPad2d(1),
""",
    ),
]
