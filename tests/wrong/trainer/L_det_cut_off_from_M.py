WRONG = "the repainting runs under no_grad, so L_det never reaches M"
HINT = "no_grad around the repainting"
REPLACE = [
    (
        "v_new = repaint(v, regions, self.anonymizer, config.face_size)",
        "v_new = repaint(v, regions, torch.no_grad()(self.anonymizer), config.face_size)",
    ),
]
