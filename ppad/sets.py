"""Faces, action frames and verification pairs, checked, and the batches that are made of them (paper Sec. 4 and 5.1).

The paper trains on two kinds of pictures: a face set with identities (for the recogniser D) and action frames with
person boxes and their actions (for the detector A). Here each is a set whose pictures are uint8, a quarter of what
floats take, and `batch` makes floats in [-1, 1] of a few of them, on the device that will learn from them: a GPU gets
the bytes and does the rest itself.

The pictures are a tensor (N, 3, H, W) in memory, or `readers.Pictures`, which knows the files and decodes what it is
asked for: both give a (B, 3, H, W) uint8 tensor for `pictures[indices]`, and nothing else here can tell them apart.

Boxes are xyxy pixels and landmarks x,y pixels, continuous (pixel i covers [i, i+1)). Boxes and labels that cannot be
right are refused with a `DataError` that names the picture and the mend, before they can become a wrong number later.
"""

import math
from dataclasses import dataclass, field

import torch

from ppad.crop_sampler import enlarge_boxes
from ppad.readers import FACE_SCALE, DataError, Pictures, checked_boxes

MIRROR_ORDER = [
    1,
    0,
    2,
    4,
    3,
]  # in a mirror the image-left eye is the image-right one, and so for the mouth's corners


class _PictureSet:
    """What both sets say of their pictures (N, 3, H, W), which lie in the field that `PICTURES` names."""

    def __len__(self) -> int:
        return len(getattr(self, self.PICTURES))

    @property
    def lazy(self) -> bool:
        """Whether a batch's pictures must be decoded first."""
        return isinstance(getattr(self, self.PICTURES), Pictures)

    @property
    def nbytes(self) -> int:
        """Bytes of all pictures, whether they are in memory or would be."""
        return math.prod(getattr(self, self.PICTURES).shape)


@dataclass
class FaceSet(_PictureSet):
    """Face crops with landmarks and people; `skipped` says which pictures a reader left out, and why.

    images (N, 3, S, S) uint8 RGB; landmarks (N, 5, 2) float32 px of the crop; identities (N,) int64, 0..P-1 without
    gaps; names: N times "person/picture", without suffix.
    """

    PICTURES = "images"
    images: torch.Tensor | Pictures
    landmarks: torch.Tensor
    identities: torch.Tensor
    names: list[str]
    skipped: list[str] = field(default_factory=list)

    def floats(self):
        """All pictures in [-1, 1], to be indexed like a tensor (N, 3, S, S); made when they are asked for."""
        return _Floats(self.images)

    def batch(self, indices, mirror=None, device="cpu"):
        """Some faces as the networks want them.

        indices (B,) int64; mirror (B,) bool or None: which of them to flip left to right.
        Returns faces (B, 3, S, S) float in [-1, 1] on `device`; landmarks (B, 5, 2) px and identities (B,) int64, on the
        CPU: whoever takes them looks first whether they can be right, and to look at a GPU is to wait for it.
        Raises DataError for a picture that can no longer be decoded.
        """
        faces, points = (
            _ready(self.images[indices], mirror, device),
            self.landmarks[indices],
        )  # (B, 3, S, S), (B, 5, 2)
        if mirror is not None:
            flipped = torch.stack([faces.shape[3] - points[..., 0], points[..., 1]], 2)[
                :, MIRROR_ORDER
            ]  # (B, 5, 2)
            points = torch.where(mirror[:, None, None], flipped, points)
        return faces, points, self.identities[indices]


@dataclass
class ActionSet(_PictureSet):
    """Action frames of one size; `skipped` says which pictures a reader left out, and why.

    frames (N, 3, H, W) uint8 RGB. One entry a frame in: boxes (n, 4) px of the people; labels (n,) int64, 1 to
    len(classes), 0 being the background, so `classes[label - 1]` is the name; face_boxes (k, 4) px as found, not
    enlarged, k may be 0; names. face_actions: 0-based positions in `classes` of the actions that happen at the face.
    Boxes are clipped to the frame. Raises DataError for a box or label that cannot be right.
    """

    PICTURES = "frames"
    frames: torch.Tensor | Pictures
    boxes: list
    labels: list
    face_boxes: list
    names: list[str]
    classes: list[str]
    face_actions: list[int]
    skipped: list[str] = field(default_factory=list)

    def __post_init__(self):
        size = self.frames.shape[3], self.frames.shape[2]
        self.boxes = [
            checked_boxes(b, *size, f"{name}: box") for name, b in zip(self.names, self.boxes)
        ]
        self.face_boxes = [
            checked_boxes(b, *size, f"{name}: face box", math.inf)
            for name, b in zip(self.names, self.face_boxes)
        ]
        for name, labels, boxes in zip(self.names, self.labels, self.boxes):
            if len(labels) != len(boxes) or not all(
                1 <= label <= len(self.classes) for label in labels.tolist()
            ):
                raise DataError(
                    f"{name}: labels {labels.tolist()} of {len(boxes)} boxes; give one label a box, "
                    f"from 1 to {len(self.classes)} (0 is the background)"
                )

    def batch(self, indices, mirror=None, device="cpu"):
        """Some frames as the detector wants them.

        indices (B,) int64; mirror (B,) bool or None: which of them to flip left to right.
        Returns frames (B, 3, H, W) float in [-1, 1] on `device`; targets, a list of {"boxes": (n, 4) px, "labels": (n,)
        int64}; and face boxes, a list of (k, 4) px, enlarged 1.6 times about their centre (paper section 5.2) and clipped;
        both on the CPU, as in `FaceSet.batch`.
        Raises DataError for a picture that can no longer be decoded.
        """
        indices = torch.as_tensor(indices)
        flips = [False] * len(indices) if mirror is None else mirror.tolist()
        height, width = self.frames.shape[2:]
        targets, faces = [], []
        for i, flip in zip(indices.tolist(), flips):
            boxes, found = self.boxes[i], self.face_boxes[i]
            if flip:
                boxes, found = _mirrored(boxes, width), _mirrored(found, width)
            targets.append({"boxes": boxes, "labels": self.labels[i]})
            faces.append(enlarge_boxes(found, (height, width), FACE_SCALE))
        return _ready(self.frames[indices], mirror, device), targets, faces


@dataclass
class Pairs:
    """P verification pairs: first and second (P,) int64 index a FaceSet; same (P,) bool; folds (P,) int64, from 0.

    `dropped` names the pairs of a pairs file with a picture that the face set lacks.
    """

    first: torch.Tensor
    second: torch.Tensor
    same: torch.Tensor
    folds: torch.Tensor
    dropped: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.same)


class _Floats:
    def __init__(self, images):
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, indices):
        return _to_float(self.images[indices])


def _ready(pictures, mirror, device):
    """uint8 pictures (B, 3, H, W) as floats in [-1, 1] on `device`, those flipped that `mirror` (B,), if any, says."""
    pictures = _to_float(_moved(pictures, device))
    if mirror is None:
        return pictures
    return torch.where(_moved(mirror, device)[:, None, None, None], pictures.flip(3), pictures)


def _moved(batch, device):
    if torch.device(device).type == "cuda":
        return batch.pin_memory().to(
            device, non_blocking=True
        )  # through pinned memory the GPU fetches it itself
    return batch.to(device)


def _to_float(pictures):
    return pictures.float() / 127.5 - 1  # uint8 0..255 -> M's range [-1, 1]


def _mirrored(boxes, width):
    return torch.stack(
        [width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1
    )  # (n, 4)
