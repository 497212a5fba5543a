WRONG = "line 11 teaches A the original frames"
HINT = "A must see repainted frames"
REPLACE = [
    ("v_new = repainted_frames(v, regions, anonymizer, config.face_size)", "v_new = v"),
]
