WRONG = "line 11 teaches A the original frames"
HINT = "A must see repainted frames"
REPLACE = [
    ("""        with torch.no_grad():
            repainted = repainted_frames(frames, boxes, self.anonymizer, self.config.face_size)""",
     "        repainted = frames"),
]
