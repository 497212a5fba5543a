WRONG = "classes are counted from 0: the background has an AP and the last class has none"
HINT = "Class 0 is the background"
REPLACE = [
    ("for label in range(1, classes + 1)",
     "for label in range(classes)"),
]
