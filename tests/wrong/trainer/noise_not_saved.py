WRONG = "a fixed anonymizer is no part, though Noise counts its calls"
HINT = "an anonymizer that draws noise"
REPLACE = [
    ('if hasattr(self.anonymizer, "state_dict"):', "if isinstance(self.anonymizer, nn.Module):")
]
