WRONG = "the equal error rate is the mean of both rates at the point where they are nearest"
HINT = "nor the mean of the nearest one's rates"
REPLACE = [
    (
        """    after = int(np.argmax(difference >= 0))
    before = after - 1
    share = -difference[before] / (difference[after] - difference[before])
    return float(false_accepts[before] + share * (false_accepts[after] - false_accepts[before]))
""",
        """    nearest = np.argmin(abs(difference))
    return float(false_accepts[nearest] + 1 - true_accepts[nearest]) / 2
""",
    ),
]
