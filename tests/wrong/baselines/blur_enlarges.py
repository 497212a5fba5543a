WRONG = (
    "Blur takes crops with fewer pixels than cells through its grid, which changes them a little"
)
HINT = "too small for its cells"
REPLACE = [
    (
        """        if size < self.cells:
            return crops
""",
        "",
    ),
]
