WRONG = "resize upsamples bilinearly"
HINT = "nearest, not bilinear"
REPLACE = [
    ('nn.Upsample(scale_factor=2, mode="nearest")', 'nn.Upsample(scale_factor=2, mode="bilinear")'),
]
