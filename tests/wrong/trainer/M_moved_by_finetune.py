WRONG = "line 11 moves M together with A"
HINT = "M moved by finetune"
REPLACE = [
    (
        """            with torch.no_grad():
                v_new = repainted_frames""",
        """            if True:
                v_new = repainted_frames""",
    ),
    (
        """            loss = L_det / config.accumulate
            optim.backward_and_step(loss, [self.optimizers["detector"]], self.scaler, last)""",
        """            loss = L_det / config.accumulate
            both = [one for name, one in self.optimizers.items() if name != "recognizer"]
            optim.backward_and_step(loss, both, self.scaler, last)""",
    ),
]
