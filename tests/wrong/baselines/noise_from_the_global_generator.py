WRONG = "the noise comes from torch's global generator"
HINT = "global generator"
REPLACE = [
    ("torch.randn(crops.shape, generator=generator, device", "torch.randn(crops.shape, device"),
]
