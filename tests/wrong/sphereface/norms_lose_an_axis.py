WRONG = "norms come out as (B,)"
HINT = "keep their last axis"
REPLACE = [
    ("norms = embeddings.norm(dim=1, keepdim=True)", "norms = embeddings.norm(dim=1)"),
]
