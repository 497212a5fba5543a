WRONG = "the sign of b is flipped: tilted faces are turned the wrong way"
HINT = "the sign of b"
REPLACE = [
    ("b = (x * v - y * u).sum(1) / spread", "b = (y * u - x * v).sum(1) / spread"),
]
