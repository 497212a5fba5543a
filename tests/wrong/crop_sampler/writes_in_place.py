WRONG = "hand-made anonymizers paint over the frames that came in"
HINT = "not in place"
REPLACE = [
    (
        "return _overlay(frames, [square[0] for square in squares], flat, frame_of)",
        """painted = [square[0] for square in squares]
    return frames.copy_(_overlay(frames, painted, flat, frame_of))""",
    ),
]
