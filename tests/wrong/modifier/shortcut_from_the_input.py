WRONG = "the input is added to the output, as in a U-Net"
HINT = "no shortcut from the input"
REPLACE = [
    (
        "        painted = self.paint(features)  # (B, 3, S, S)",
        "        painted = self.paint(features) + faces  # (B, 3, S, S)",
    ),
]
