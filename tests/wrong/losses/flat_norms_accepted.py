WRONG = "norms (B,) pass and scale the wrong axis"
HINT = "along the wrong axis"
REPLACE = [
    ("    if tuple(norms.shape) != (batch, 1):", "    if norms.numel() != batch:"),
]
