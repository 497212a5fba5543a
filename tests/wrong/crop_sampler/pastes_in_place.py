WRONG = "the frames that came in are painted over"
HINT = "changed in place"
REPLACE = [
    (
        "return _overlay(frames, patches, frame_of, start, end)",
        "return frames.copy_(_overlay(frames, patches, frame_of, start, end))",
    ),
]
