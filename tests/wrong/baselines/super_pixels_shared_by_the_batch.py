WRONG = "all pictures of a batch share one mean color a cluster"
HINT = "in its own picture"
REPLACE = [
    ("clusters = self.grid**2 * torch.arange(len(crops)", "clusters = 0 * torch.arange(len(crops)"),
]
