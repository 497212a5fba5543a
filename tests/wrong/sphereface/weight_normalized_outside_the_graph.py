WRONG = "the gradient of the head's rows points along them"
HINT = "under no_grad or detached"
REPLACE = [
    (
        "F.normalize(self.weight, dim=1).T",
        "(self.weight / self.weight.detach().norm(dim=1, keepdim=True)).T",
    ),
]
