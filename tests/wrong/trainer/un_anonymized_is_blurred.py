WRONG = "Un-anonymized frames are cropped and pasted back, a slight blur"
HINT = "not a blur of them"
REPLACE = [
    (
        "return frames if anonymizer is identity else repaint(",
        "return repaint(",
    ),
]
