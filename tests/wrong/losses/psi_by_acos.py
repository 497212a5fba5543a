WRONG = "cos(4 acos(c)) has no gradient at the ends"
HINT = "infinite slope"
REPLACE = [
    (
        """    previous = torch.ones_like(cosine)
    cosine_of_multiple = cosine
""",
        """    cosine_of_multiple = torch.cos(m * torch.acos(cosine))
""",
    ),
    (
        """    for _ in range(m - 1):  # cos((n+1) t) = 2 cos(t) cos(n t) - cos((n-1) t)
        following = 2 * cosine * cosine_of_multiple - previous
        previous = cosine_of_multiple
        cosine_of_multiple = following
""",
        "",
    ),
]
