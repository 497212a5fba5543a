WRONG = "faces of one size are given to a hand-made anonymizer in one call"
HINT = "is called once a face"
REPLACE = [
    (
        """        squares = [anonymizer(square) for square in cut_pixels(frames, boxes)]
""",
        """        squares = cut_pixels(frames, boxes)
        if len({square.shape for square in squares}) == 1:
            squares = anonymizer(torch.cat(squares)).split(1)
        else:
            squares = [anonymizer(square) for square in squares]
""",
    ),
]
