WRONG = "all pictures of a batch share one mean color a cluster"
HINT = "in its own picture"
REPLACE = [
    ("offset = self.grid**2 * torch.arange(len(crops)", "offset = 0 * torch.arange(len(crops)"),
]
