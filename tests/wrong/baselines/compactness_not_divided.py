WRONG = "place weighs compactness, whatever the size of a cell"
HINT = "compactness / step"
REPLACE = [
    ("axis = axis * (self.compactness / step)", "axis = axis * (self.compactness)"),
]
