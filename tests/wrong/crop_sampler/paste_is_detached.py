WRONG = "the crops are detached, so L_det never reaches M"
HINT = "L_det through paste_faces"
REPLACE = [
    ("crops.to(frames.dtype) @ across", "crops.detach().to(frames.dtype) @ across"),
]
