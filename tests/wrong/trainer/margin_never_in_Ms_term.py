WRONG = "M's term has no margin even where the preset asks for it"
HINT = "unless adversarial_margin"
REPLACE = [("margin=self.config.adversarial_margin", "margin=False")]
