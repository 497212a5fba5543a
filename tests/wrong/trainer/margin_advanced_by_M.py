WRONG = "M's step advances the margin: one of D's buffers moves"
HINT = "D's buffers (its margin's step) stay"
REPLACE = [
    (
        "        crops = aligned_crops(modified, landmarks, self.crop_size)",
        """        self.recognizer.margin.advance()
        crops = aligned_crops(modified, landmarks, self.crop_size)""",
    ),
]
