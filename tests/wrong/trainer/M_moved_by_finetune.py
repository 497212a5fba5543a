WRONG = "line 11 moves M together with A"
HINT = "M moved by finetune"
REPLACE = [
    ("with torch.no_grad(), self.autocast:", "with self.autocast:"),
    (
        """            loss = L_det / self.config.accumulate
            optim.backward_and_step(loss, [self.optimizers["detector"]], self.scaler, last)""",
        """            loss = L_det / self.config.accumulate
            both = [one for name, one in self.optimizers.items() if name != "recognizer"]
            optim.backward_and_step(loss, both, self.scaler, last)""",
    ),
]
