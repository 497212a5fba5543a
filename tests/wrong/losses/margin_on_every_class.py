WRONG = "every class is hindered, so nobody is"
HINT = "belongs on the true class"
REPLACE = [
    (
        "logits = size * cosines.scatter(1, index, hindered)",
        "logits = size * ((1 - share) * cosines + share * psi(cosines, self.m))",
    ),
]
