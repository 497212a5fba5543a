WRONG = "each forward counts as an update, M's looks too"
HINT = "a forward is not an update of D"
REPLACE = [
    (
        "        return F.cross_entropy(logits, labels, reduction=reduction)",
        """        self.advance()
        return F.cross_entropy(logits, labels, reduction=reduction)""",
    ),
]
