WRONG = "the order of the faces is drawn from torch's global chance, so rows see other data"
HINT = "not on global chance"
REPLACE = [
    (
        "datasets.batches(faces, config.batch_faces, loop.seed, start",
        "datasets.batches(faces, config.batch_faces, int(torch.randint(999, ())), start",
    ),
]
