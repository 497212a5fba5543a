WRONG = "each forward counts as an update, M's looks too"
HINT = "a look must not move D's clock"
REPLACE = [
    (
        "        return F.cross_entropy(logits, labels, reduction=reduction)",
        """        self.advance()
        return F.cross_entropy(logits, labels, reduction=reduction)""",
    ),
]
