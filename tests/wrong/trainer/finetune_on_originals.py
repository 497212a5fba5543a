WRONG = "line 11 teaches A the original frames"
HINT = "A must see repainted frames"
REPLACE = [
    ("v_new = repaint(v, regions, self.anonymizer)  # (B', 3, H, W)", "v_new = v"),
]
