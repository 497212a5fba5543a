WRONG = "SLIC's published compactness, whatever the field says"
HINT = "compactness is a field"
REPLACE = [
    ("axis = axis * (self.compactness / step)", "axis = axis * (10.0 / step)"),
]
