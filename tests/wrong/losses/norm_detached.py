WRONG = "the gradient does not reach the feature's length"
HINT = "|x| detached"
REPLACE = [
    (
        "length = self.scale if self.scale else norms",
        "length = self.scale if self.scale else norms.detach()",
    ),
]
