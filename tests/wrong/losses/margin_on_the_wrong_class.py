WRONG = "the margin is put on the class D likes best instead of the true one"
HINT = "Margin on the wrong class"
REPLACE = [
    ("index = labels[:, None]  # (B, 1)", "index = cosines.argmax(dim=1, keepdim=True)  # (B, 1)"),
]
