WRONG = "identity 0 is taken for a background and left out"
HINT = "no background to ignore"
REPLACE = [
    (
        "F.cross_entropy(logits, labels, reduction=reduction)",
        "F.cross_entropy(logits, labels, reduction=reduction, ignore_index=0)",
    ),
]
