WRONG = "the frames are detached, so L_det never reaches M"
HINT = "a detach"
REPLACE = [
    (
        "return self.model(list(frames), targets)",
        "return self.model(list(frames.detach()), targets)",
    ),
]
