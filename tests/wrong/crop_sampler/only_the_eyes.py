WRONG = "the fit looks at the two eyes and not at all five points"
HINT = "all five points"
REPLACE = [
    (
        "a = (x * u + y * v).sum(1) / spread",
        "a = (x * u + y * v)[:, :2].sum(1) / (x * x + y * y)[:, :2].sum(1)",
    ),
]
