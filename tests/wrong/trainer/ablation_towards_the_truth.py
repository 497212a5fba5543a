WRONG = "the random-label ablation descends towards the true identity"
HINT = "not the true identity"
REPLACE = [
    (
        "identities = losses.random_label_targets(identities, people)",
        "identities = identities % people",
    ),
]
