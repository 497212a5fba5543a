WRONG = "the head's rows keep their own lengths"
HINT = "each row of `weight`"
REPLACE = [
    ("F.normalize(self.weight, dim=1).T", "self.weight.T"),
]
