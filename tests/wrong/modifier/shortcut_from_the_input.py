WRONG = "the input is added to the output, as in a U-Net"
HINT = "no shortcut from the input"
REPLACE = [
    (
        "        output = self.decoder(features)  # (B, 3, S, S)",
        "        output = self.decoder(features) + faces  # (B, 3, S, S)",
    ),
]
