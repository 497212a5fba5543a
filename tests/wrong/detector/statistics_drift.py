WRONG = "batch norm's statistics from ImageNet move in training"
HINT = "statistics from ImageNet must not drift"
REPLACE = [
    ("nn.BatchNorm2d if scratch else FrozenBatchNorm2d", "nn.BatchNorm2d"),
]
