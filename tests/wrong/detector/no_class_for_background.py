WRONG = "the toy's box predictor has no output for the background"
HINT = "background is one class more"
REPLACE = [
    (
        "FastRCNNPredictor(ToyBoxHead.WIDTH, config.classes + 1)",
        "FastRCNNPredictor(ToyBoxHead.WIDTH, config.classes)",
    ),
]
