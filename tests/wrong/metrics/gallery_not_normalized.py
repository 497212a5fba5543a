WRONG = "the longest gallery face wins every probe"
HINT = "so normalize the gallery"
REPLACE = [
    (
        "gallery = np.divide(gallery, norms, out=np.zeros_like(gallery), where=norms > 0)",
        "gallery = gallery * 1.0",
    ),
]
