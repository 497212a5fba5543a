WRONG = "hand-made anonymizers paint over the frames that came in"
HINT = "not in place"
REPLACE = [
    (
        "return _overlay(frames, patches, frame_of, *_whole_pixels(flat))",
        "return frames.copy_(_overlay(frames, patches, frame_of, *_whole_pixels(flat)))",
    ),
]
