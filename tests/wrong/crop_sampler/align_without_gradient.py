WRONG = "the sampler runs on a detached picture, so L_adv never reaches M"
HINT = "a detach"
REPLACE = [
    ("F.grid_sample(images - BLACK, grid", "F.grid_sample(images.detach() - BLACK, grid"),
]
