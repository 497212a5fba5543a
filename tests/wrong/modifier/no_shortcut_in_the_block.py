WRONG = "a block returns its correction alone"
HINT = "without this shortcut"
REPLACE = [
    ("return features + self.correction(features)", "return self.correction(features)"),
]
