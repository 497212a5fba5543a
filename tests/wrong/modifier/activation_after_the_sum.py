WRONG = "a ReLU after each block's sum"
HINT = "No ReLU after the sum"
REPLACE = [
    (
        "return features + self.correction(features)",
        "return torch.relu(features + self.correction(features))",
    ),
]
