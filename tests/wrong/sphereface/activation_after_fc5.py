WRONG = "the embedding is cut at 0"
HINT = "an embedding may be negative"
REPLACE = [
    (
        "return self.fc5(features.flatten(start_dim=1))",
        "return F.relu(self.fc5(features.flatten(start_dim=1)))",
    ),
]
