WRONG = "L_det is only the second stage's two losses"
HINT = "sum of all four"
REPLACE = [
    (
        "return sum(losses[name] for name in DETECTION_LOSSES)",
        'return losses["loss_classifier"] + losses["loss_box_reg"]',
    ),
]
