WRONG = "the gradient of the loss does not reach the embedding's length"
HINT = "norms detached"
REPLACE = [
    (
        "norms = embeddings.norm(dim=1, keepdim=True)",
        "norms = embeddings.detach().norm(dim=1, keepdim=True)",
    ),
]
