WRONG = "the cap is on the mean of the batch: one large loss hides the others"
HINT = "a cap on the mean"
REPLACE = [
    (
        "return -per_sample_loss_D.clamp(max=cap).mean()",
        "return -per_sample_loss_D.mean().clamp(max=cap)",
    ),
]
