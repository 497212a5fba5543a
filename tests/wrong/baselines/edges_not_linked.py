WRONG = "every weak edge is drawn, whether or not it touches a strong one"
HINT = "link weak edges to strong ones only"
REPLACE = [
    ("thin > self.low, thin > self.high", "thin > self.low, thin > self.low"),
]
