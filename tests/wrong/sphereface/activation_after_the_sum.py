WRONG = "a residual unit has ResNet's last activation"
HINT = "an activation after the sum"
REPLACE = [
    (
        "return features + self.correction(features)",
        "return F.relu(features + self.correction(features))",
    ),
]
