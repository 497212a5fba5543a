WRONG = "the random label is drawn among all identities"
HINT = "never the true label"
REPLACE = [
    ("turn = torch.randint(1, identities,", "turn = torch.randint(0, identities,"),
]
