WRONG = "a target may carry label 0, the background, without a word"
HINT = "0 is no action"
REPLACE = [
    ("(labels < 1).any()", "(labels < 0).any()"),
]
