WRONG = "cosines are normalized along the batch instead of the embedding"
HINT = "Divide both the embedding"
REPLACE = [
    ("F.normalize(embeddings, dim=1) @", "F.normalize(embeddings, dim=0) @"),
]
