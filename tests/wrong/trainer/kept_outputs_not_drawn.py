WRONG = "D's copy learns again from the present batch, never from what was kept"
HINT = "from all that is kept"
REPLACE = [
    (
        "batch = self.kept.draw(len(pictures))",
        "batch = (pictures, modified.detach(), landmarks, identities)",
    ),
]
