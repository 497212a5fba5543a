WRONG = "the transform's scale and rotation have no gradient"
HINT = "a detach cuts the gradient to the landmarks"
REPLACE = [
    (
        "torch.stack([a, -b, b, a], -1).view(-1, 2, 2)",
        "torch.stack([a, -b, b, a], -1).detach().view(-1, 2, 2)",
    ),
]
