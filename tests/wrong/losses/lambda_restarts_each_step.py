WRONG = "lambda is always that of step 0"
HINT = "lambda restarted"
REPLACE = [
    (
        "return lambda_schedule(int(self.step), **self.schedule)",
        "return lambda_schedule(0, **self.schedule)",
    ),
]
