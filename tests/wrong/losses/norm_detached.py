WRONG = "the gradient does not reach the feature's length"
HINT = "|x| detached"
REPLACE = [
    (
        "size = self.scale if self.scale else norms",
        "size = self.scale if self.scale else norms.detach()",
    ),
]
