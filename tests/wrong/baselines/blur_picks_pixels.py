WRONG = "Blur picks one pixel a cell, so detail aliases through"
HINT = "area mean"
REPLACE = [
    (
        'size=(self.cells, self.cells), mode="area")',
        'size=(self.cells, self.cells), mode="nearest")',
    ),
]
