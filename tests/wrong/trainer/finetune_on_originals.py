WRONG = "line 11 teaches A the original frames"
HINT = "A must see repainted frames"
REPLACE = [
    (
        """        with torch.no_grad():
            repainted = self._repainted(frames, boxes)""",
        "        repainted = frames",
    ),
]
