WRONG = "the variance of [0, 1] pictures is used in [-1, 1] as it stands"
HINT = "twice as large"
REPLACE = [
    ("2 * math.sqrt(self.variance) * draw", "math.sqrt(self.variance) * draw"),
]
