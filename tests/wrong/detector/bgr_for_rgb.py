WRONG = "training shows the body BGR"
HINT = "BGR/RGB swapped"
REPLACE = [
    (
        "return self.model(list(frames), targets)",
        "return self.model(list(frames.flip(1)), targets)",
    ),
]
