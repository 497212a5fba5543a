WRONG = "the variance is used as a standard deviation"
HINT = "not standard deviation"
REPLACE = [
    ("2 * math.sqrt(self.variance) * draw", "2 * self.variance * draw"),
]
