WRONG = "detect leaves the detector in evaluation mode"
HINT = "the mode it was in"
REPLACE = [
    ("                module.training = training", "                pass"),
]
