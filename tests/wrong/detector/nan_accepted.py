WRONG = "frames with nan pass the check of their range"
HINT = "for frames with nan"
REPLACE = [
    (
        "if not frames.detach().abs().amax() <= 1.01:",
        "if frames.detach().abs().amax() > 1.01:",
    ),
]
