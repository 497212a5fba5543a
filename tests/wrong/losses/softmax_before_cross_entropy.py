WRONG = "the logits go through a softmax and then through cross_entropy's own"
HINT = "softmax before cross_entropy"
REPLACE = [
    (
        "F.cross_entropy(logits, labels, reduction=reduction)",
        "F.cross_entropy(logits.softmax(dim=1), labels, reduction=reduction)",
    ),
]
