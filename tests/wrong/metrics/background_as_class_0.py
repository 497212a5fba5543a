WRONG = "classes are counted from 0: the background has an AP and the last class has none"
HINT = "Class 0 is the background"
REPLACE = [
    ("labels = range(1, classes + 1)", "labels = range(classes)"),
]
