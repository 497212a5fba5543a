WRONG = "the repainting runs under no_grad, so L_det never reaches M"
HINT = "no_grad around the repainting"
REPLACE = [
    ("torch.set_grad_enabled(bool(self.modifier_weights))", "torch.no_grad()"),
]
