WRONG = "instance norm with running statistics: another M in testing"
HINT = "no running statistics"
REPLACE = [
    (
        "return nn.InstanceNorm2d(channels, eps=1e-5, affine=False, track_running_stats=False)",
        "return nn.InstanceNorm2d(channels, eps=1e-5, affine=False, track_running_stats=True)",
    ),
]
