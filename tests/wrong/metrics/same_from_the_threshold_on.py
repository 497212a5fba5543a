WRONG = "a score equal to the threshold is accepted"
HINT = "(>, not >=)"
REPLACE = [
    ("(scores[test] > fitted) == same[test]", "(scores[test] >= fitted) == same[test]"),
]
