WRONG = "aligned crops are aligned once more, with the same landmarks"
HINT = "not aligned twice"
REPLACE = [
    (
        "return aligned_crops(pictures, landmarks, size)",
        "return aligned_crops(aligned_crops(pictures, landmarks, size), landmarks, size)",
    ),
]
