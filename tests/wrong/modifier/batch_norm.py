WRONG = "batch norm for instance norm"
HINT = "which mixes the pictures of a batch"
REPLACE = [
    (
        "return nn.InstanceNorm2d(channels, eps=1e-5, affine=False, track_running_stats=False)",
        "return nn.BatchNorm2d(channels, eps=1e-5, affine=False, track_running_stats=False)",
    ),
]
