WRONG = "transposed convs keep torch's start"
HINT = "transposed ones too"
REPLACE = [
    ("if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):", "if isinstance(layer, nn.Conv2d):"),
]
