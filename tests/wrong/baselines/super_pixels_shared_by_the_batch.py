WRONG = "all pictures of a batch share one mean color a cluster"
HINT = "in its own picture"
REPLACE = [
    (
        "mean = (total / count.clamp(min=1))",
        "mean = (total.mean(0, keepdim=True) / count.mean(0, "
        "keepdim=True).clamp(min=1)).expand_as(total)",
    ),
]
