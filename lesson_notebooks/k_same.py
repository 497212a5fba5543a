"""k-same averaging as a user's own row (Newton, Sweeney and Malin, 2005; see lesson 07).

python -m ppad.reproduce --preset quick --row "k-same=lesson_notebooks/k_same.py:KSame"
"""

import torch

from ppad.datasets import toy_faces

K = 5  # ours: a mean of 2 faces still resembles one, a mean of 20 is nearly the mean face
PEOPLE = 120  # ours: the training people of --preset quick, and some of those of toy
EACH = 3  # ours: pictures of each person, so that one has about the face's pose


class KSame:
    """Each face becomes the mean of k gallery faces: of the k people who look most like it.

    What k-same guarantees: in a set of distinct people, one picture each, divided into groups of k
    that all get their group's mean, a published face stands for k people, and nobody can name the
    right one more often than once in k.

    What it does not: anything about several pictures of one person, which fall into several groups,
    or about faces outside of the set. As the contract of a row asks, each face is treated by itself
    here. No pixel of it is published, but the choice of its k people depends on it, and an attacker
    who is trained on the results (`retrained`) may learn what the choice tells. So it is measured,
    not proved.

    gallery: (P, n, 3, S, S) in [-1, 1], n pictures of each of P people, none of them to be hidden.
    """

    size = 64  # the only S it takes

    def __init__(self, k: int = K, gallery: torch.Tensor | None = None):
        self.k = k
        if gallery is None:
            drawn = toy_faces(0, range(PEOPLE), EACH, self.size)
            pictures, _, _ = drawn.batch(torch.arange(len(drawn)))  # (P * n, 3, S, S)
            gallery = pictures.unflatten(0, (PEOPLE, EACH))  # (P, n, 3, S, S)
        self.gallery = gallery

    def __call__(self, faces: torch.Tensor) -> torch.Tensor:
        """(B, 3, S, S) in [-1, 1] to the same."""
        gallery = self.gallery.to(faces.device)
        people, each = gallery.shape[:2]
        every = gallery.flatten(0, 1)  # (P * n, 3, S, S)
        distances = torch.cdist(faces.flatten(1), every.flatten(1))  # (B, P * n)
        distances, picture = distances.unflatten(1, (people, each)).min(dim=2)  # (B, P) both
        person = distances.topk(self.k, largest=False).indices  # (B, k), k different people
        nearest = gallery[person, picture.gather(1, person)]  # (B, k, 3, S, S)
        return nearest.mean(dim=1)  # (B, 3, S, S)
