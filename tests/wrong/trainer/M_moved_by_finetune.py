WRONG = "line 11 moves M together with A"
HINT = "M moved by finetune"
REPLACE = [
    ("with torch.no_grad(), self.autocast:", "with self.autocast:"),
    (
        """            learning = [self.optimizers["detector"]]""",
        """            both = [name for name in self.optimizers if name != "recognizer"]
            learning = [self.optimizers[name] for name in both]""",
    ),
]
