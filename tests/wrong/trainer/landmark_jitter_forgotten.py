WRONG = "D learns from faces that are always aligned alike"
HINT = "landmark jitter is drawn once"
REPLACE = [
    ("points = jitter_landmarks(points, config.landmark_jitter)  # (B, 5, 2)", "pass"),
]
