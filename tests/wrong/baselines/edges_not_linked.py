WRONG = "every weak edge is drawn, whether or not it touches a strong one"
HINT = "link weak edges to strong ones only"
REPLACE = [
    ("edge = thin > self.high", "edge = thin > self.low"),
]
