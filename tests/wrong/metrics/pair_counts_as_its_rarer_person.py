WRONG = "a pair counts as often as the one of its two people who was drawn less"
HINT = "not the smaller of the two"
REPLACE = [
    ("weight[first] * weight[second]", "np.minimum(weight[first], weight[second])"),
]
