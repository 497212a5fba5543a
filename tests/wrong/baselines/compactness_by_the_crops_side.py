WRONG = "compactness is divided by the side of the crop"
HINT = "and not the crop's"
REPLACE = [
    ("axis = axis * (self.compactness / step)", "axis = axis * (self.compactness / size)"),
]
