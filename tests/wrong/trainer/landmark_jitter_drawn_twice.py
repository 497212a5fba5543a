WRONG = "f' and f are aligned by different landmarks"
HINT = "the same for f' and f"
REPLACE = [
    ("points = jitter_landmarks(points, config.landmark_jitter)  # (B, 5, 2)", "pass"),
    (
        "aligned_crops(faces, points.repeat(2, 1, 1), self.crop_size)",
        "aligned_crops(\n"
        "                faces,\n"
        "                jitter_landmarks(points.repeat(2, 1, 1), config.landmark_jitter),\n"
        "                self.crop_size,\n"
        "            )",
    ),
]
