WRONG = "the margin is put on every class, so it has no effect"
HINT = "belongs on the true class"
REPLACE = [
    (
        "cosines = cosines.scatter(1, index, with_margin)",
        "cosines = (1 - share) * cosines + share * psi(cosines, self.m)",
    ),
]
