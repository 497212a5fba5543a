WRONG = "the random label is drawn among all identities"
HINT = "never the true label"
REPLACE = [
    ("offset = torch.randint(1, identities,", "offset = torch.randint(0, identities,"),
]
