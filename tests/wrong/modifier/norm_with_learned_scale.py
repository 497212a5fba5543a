WRONG = "instance norm with learned scale and shift"
HINT = "no learned scale"
REPLACE = [
    (
        "return nn.InstanceNorm2d(channels, eps=1e-5, affine=False, track_running_stats=False)",
        "return nn.InstanceNorm2d(channels, eps=1e-5, affine=True, track_running_stats=False)",
    ),
]
