WRONG = "a box is rounded in the caller's own target"
HINT = "not changed in place"
REPLACE = [
    (
        '        boxes = target["boxes"]\n        labels',
        '        boxes = target["boxes"].round_()\n        labels',
    )
]
