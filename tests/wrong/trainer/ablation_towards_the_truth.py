WRONG = "the random-label ablation descends towards the true identity"
HINT = "not the true identity"
REPLACE = [
    (
        "losses.random_label_targets(identities, len(self.recognizer.head.weight))",
        "identities",
    ),
]
