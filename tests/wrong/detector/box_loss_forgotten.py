WRONG = "the box regression loss is dropped"
HINT = "return all four"
REPLACE = [
    (
        "return self.model(list(frames), targets)",
        """losses = self.model(list(frames), targets)
        losses.pop("loss_box_reg")
        return losses""",
    ),
]
