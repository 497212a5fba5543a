WRONG = "Blur puts the crop's outermost pixels back unblurred"
HINT = "leaks the border"
REPLACE = [
    (
        'return F.interpolate(small, size=(size, size), mode="bilinear", align_corners=False)',
        """blurred = crops.clone()
        up = F.interpolate(small, size=(size, size), mode="bilinear", align_corners=False)
        blurred[..., 1:-1, 1:-1] = up[..., 1:-1, 1:-1]
        return blurred""",
    ),
]
