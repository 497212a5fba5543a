WRONG = "half of the training frames are mirrored and their boxes are not"
HINT = "flipped without their boxes"
REPLACE = [
    (
        "        return self.model(list(frames), targets)\n",
        "        frames = frames.flip(-1) if torch.rand(()) < 0.5 else frames\n"
        "        return self.model(list(frames), targets)\n",
    ),
]
