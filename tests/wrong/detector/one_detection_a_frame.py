WRONG = "only the best detection of each frame comes back"
HINT = "not one a frame"
REPLACE = [
    (
        "            return self.model(list(frames))\n",
        "            found = self.model(list(frames))\n"
        "            return [{key: value[:1] for key, value in one.items()} for one in found]\n",
    ),
]
