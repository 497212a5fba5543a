WRONG = "D's count of updates is a plain attribute: after a resume lambda is back at 1000"
HINT = "registered buffer"
REPLACE = [
    (
        'self.register_buffer("step", torch.zeros((), dtype=torch.int64))',
        "self.step = torch.zeros((), dtype=torch.int64)",
    ),
]
