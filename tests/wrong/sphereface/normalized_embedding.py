WRONG = "D's embedding is brought to length 1"
HINT = "normalized embedding"
REPLACE = [
    (
        "return self.fc5(features.flatten(start_dim=1))",
        "return F.normalize(self.fc5(features.flatten(start_dim=1)))",
    ),
]
