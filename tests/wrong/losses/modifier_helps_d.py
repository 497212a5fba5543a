WRONG = "M's own term has the wrong sign: M learns to be recognized"
HINT = "with a flipped sign M would help D"
REPLACE = [
    (
        "return -per_sample_loss_D.clamp(max=cap).mean()",
        "return per_sample_loss_D.clamp(max=cap).mean()",
    ),
]
