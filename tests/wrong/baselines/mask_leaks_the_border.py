WRONG = "Masked leaves a rim of the face, four pixels wide"
HINT = "leaks the border"
REPLACE = [
    (
        "return torch.full_like(crops, self.value)",
        """masked = crops.clone()
        masked[..., 4:-4, 4:-4] = self.value
        return masked""",
    ),
]
