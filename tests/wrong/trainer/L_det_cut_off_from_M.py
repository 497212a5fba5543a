WRONG = "the repainting runs under no_grad, so L_det never reaches M"
HINT = "no_grad around the repainting"
REPLACE = [
    (
        "                    v_new = repaint(v, regions, self.anonymizer)  # lines 4-8\n",
        "                    with torch.no_grad():\n"
        "                        v_new = repaint(v, regions, self.anonymizer)\n",
    ),
]
