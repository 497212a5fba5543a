"""Attackers: recognizers that try to see through an anonymizer (paper Sec. 5.1; mostly ours).

The paper measures privacy as the verification error of the D that M was trained against and has
learned to fool. So every row of the table is also tested with recognizers that M never met:

* `never_saw`: D as it was before the game, trained on originals only;
* `other_architecture`: a plain convolutional network with batch norm and an ordinary softmax;
* `retrained`: an attacker who owns the anonymizer, repaints a labeled face set with it and trains
  on the result with the true names (these people are not in the test pairs);
* `inverting`: the same attacker trains a second M to undo the first, M(f) -> f; then `never_saw`
  and `other_architecture` are tested on its outputs.

All are measured by `verify`. A recognizer is any module that maps aligned crops (B, 3, h, w), BGR,
to embeddings (B, E).
"""

import copy
import dataclasses
import functools
import math
import tempfile

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ppad import datasets, metrics, optim
from ppad.crop_sampler import align_faces, recognizer_input
from ppad.mtcnn import MTCNN
from ppad.players import (
    LandmarkReader,
    aligned_crops,
    jitter_colors,
    jitter_landmarks,
    make_modifier,
)

# Ours: Adam's initial learning rates, before the cosine decay.
LR_RECOGNIZER = 1e-3
LR_LANDMARK_READER = 5e-3
LR_INVERTER = 2e-3
POSES = 8  # ours: all test people are drawn in each
ENLARGED = 2  # ours: MTCNN gets faces of 40 px at 80 px


class PlainRecognizer(nn.Module):
    """The other architecture: conv-BN-ReLU with max pools, averaged over space, no angular margin.

    Args: width: channels of the first layer. embedding: E. identities: N people to train on.
    """

    def __init__(self, width: int, embedding: int, identities: int):
        super().__init__()
        layers = []
        channels = 3
        for stage in range(4):
            out = width * 2**stage
            for _ in range(2 if stage > 0 else 1):  # a conv costs most at full resolution
                conv = nn.Conv2d(channels, out, kernel_size=3, padding=1, bias=False)
                layers += [conv, nn.BatchNorm2d(out), nn.ReLU()]
                channels = out
            if stage < 3:
                layers.append(nn.MaxPool2d(2))
        self.body = nn.Sequential(*layers)
        self.embed = nn.Linear(channels, embedding)
        self.classify = nn.Linear(embedding, identities)

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        """Aligned BGR crops (B, 3, h, w) to embeddings (B, E)."""
        x = self.body(crops)  # (B, 8 width, h/8, w/8)
        return self.embed(x.mean(dim=(2, 3)))  # (B, E)

    def loss(self, crops: torch.Tensor, identities: torch.Tensor) -> torch.Tensor:
        """Softmax cross-entropy with label smoothing 0.1 (ours: overfits less)."""
        identities = identities.to(crops.device, non_blocking=True)  # (B,)
        logits = self.classify(F.relu(self(crops)))  # (B, N)
        return F.cross_entropy(logits, identities, label_smoothing=0.1)


# ---------------------------------------------------------------- anonymized faces


class RepaintedFaces(datasets.FaceSet):
    """An anonymized face set. Each picture is anonymized once, at the first use of `pictures`.

    Pictures are stored in 8 bits, like published pictures: the error is at most half a gray level.
    They are in a memory-mapped temporary file, which is deleted with this object.

    Args:
        faces: `datasets.FaceSet`. anonymizer: any (B, 3, S, S) -> (B, 3, S, S).
        folder: of the temporary file; None: the system's.
        mirrored: also store the anonymized mirror images of the faces.
        aligned: store the aligned crops for a recognizer instead of the pictures.
    """

    lazy = False  # `pictures` holds them all

    def __init__(
        self, faces, anonymizer, config, device="cpu", folder=None, mirrored=False, aligned=False
    ):
        self.faces = faces
        self.landmarks = faces.landmarks
        self.identities = faces.identities
        self.names = faces.names
        self.anonymizer = anonymizer
        self.config = config
        self.device = device
        self.folder = folder
        self.mirrored = mirrored
        self.aligned = aligned

    def __len__(self) -> int:
        return len(self.identities)

    @functools.cached_property
    @torch.no_grad()
    def pictures(self) -> torch.Tensor:
        """(N, 3, S, S) or, aligned, (N, 3, h, w) uint8 RGB; then N mirror images if `mirrored`."""
        with tempfile.TemporaryFile(dir=self.folder) as file:
            for mirror in (False, True) if self.mirrored else (False,):
                for indices in torch.arange(len(self)).split(self.config.eval_batch):
                    flip = torch.full((len(indices),), mirror)  # (B,)
                    pictures, points, _ = self.faces.batch(indices, flip, self.device)
                    output = self.anonymizer(pictures)  # (B, 3, S, S)
                    if self.aligned:
                        output = align_faces(output, points, self.config.crop_size)  # (B, 3, h, w)
                    output = (output.clamp(-1, 1) + 1) * 127.5
                    file.write(output.round().byte().cpu().numpy().tobytes())
            file.flush()
            stored = np.memmap(file, dtype=np.uint8, mode="r+")
        return torch.from_numpy(stored).view(-1, *output.shape[1:])

    def flipped(self, indices, mirror):
        """As in `FaceSet`; a mirrored face was mirrored before it was anonymized."""
        return self.pictures[indices + len(self) * mirror]  # (B, 3, S, S) or (B, 3, h, w)


@torch.no_grad()
def structure(modified, test_faces, reader, config, device="cpu") -> dict[str, float]:
    """How much an anonymizer preserves of the faces and of their surroundings.

    modified: `test_faces`, anonymized: (N, 3, S, S) in [-1, 1], or `FaceSet.floats()`. Returns
    `l1`, the distance to the originals (eq. 3); `landmark_error`, the reader's, in eye distances;
    `outside_gradient`, gradient energy outside the middle 1 / face_scale, relative to originals.
    """
    distances = []
    errors = []
    energy = torch.zeros(2)  # of originals, of modified
    for indices in torch.arange(len(test_faces)).split(config.eval_batch):
        pictures, landmarks, _ = test_faces.batch(indices)
        after = modified[indices]  # (B, 3, S, S)
        distances.append((after - pictures).abs().mean(dim=(1, 2, 3)))  # (B,)
        eyes = (landmarks[:, 1] - landmarks[:, 0]).norm(dim=1)  # (B,)
        predicted = reader(after.to(device)).cpu()  # (B, 5, 2)
        errors.append((predicted - landmarks).norm(dim=2).mean(dim=1) / eyes)  # (B,)
        for kind, images in enumerate((pictures, after)):
            energy[kind] += gradient_outside(images, config.face_scale)
    return {
        "l1": float(torch.cat(distances).mean()),
        "landmark_error": float(torch.cat(errors).mean()),
        "outside_gradient": float(energy[1] / energy[0]),
    }


def gradient_outside(pictures: torch.Tensor, face_scale: float) -> torch.Tensor:
    """Sum of squared pixel differences of (B, 3, S, S) outside the middle 1 / face_scale."""
    size = pictures.shape[-1]
    outside = torch.ones(size, size)
    middle = slice(round(size * (1 - 1 / face_scale) / 2), round(size * (1 + 1 / face_scale) / 2))
    outside[middle, middle] = 0
    right = pictures.diff(dim=3).square() * outside[:, 1:]  # (B, 3, S, S-1)
    down = pictures.diff(dim=2).square() * outside[1:]  # (B, 3, S-1, S)
    return right.sum() + down.sum()


@torch.no_grad()
def spread(anonymizer, seed: int, people: range, config, device="cpu") -> float:
    """How much anonymized faces differ between people: 0 if everybody gets the same face.

    The standard deviation of pixels between `people` in the same pose, room and light, relative to
    the originals'. Only the toy world can draw such pictures.
    """
    deviations = torch.zeros(2)  # of originals, of modified
    for number in range(POSES):
        pictures = datasets.toy_pose(seed, number, people, config.face_size).to(device)
        for kind, images in enumerate((pictures, anonymizer(pictures))):
            deviations[kind] += images.std(dim=0).mean().cpu()
    return float(deviations[1] / deviations[0])


def found_again(modified, test_faces, finder: MTCNN, config) -> dict[str, float | None]:
    """Does MTCNN still see the faces that it finds in the originals? modified: as in `structure`.

    Returns `mtcnn_found`, the share of these that it also finds in `modified`; `mtcnn_landmarks`,
    the mean distance that its landmarks moved, in eye distances (None if it finds none again).
    """
    total = 0
    distances = []
    for indices in torch.arange(len(test_faces)).split(config.eval_batch):
        pictures, landmarks, _ = test_faces.batch(indices)
        eyes = (landmarks[:, 1] - landmarks[:, 0]).norm(dim=1)  # (B,)
        for original, after, eye in zip(
            middle_faces(pictures, finder), middle_faces(modified[indices], finder), eyes
        ):
            if original is None:
                continue
            total += 1
            if after is not None:
                distances.append(float((after - original).norm(dim=1).mean() / eye))
    return {
        "mtcnn_found": len(distances) / max(1, total),
        "mtcnn_landmarks": float(np.mean(distances)) if distances else None,
    }


def middle_faces(pictures: torch.Tensor, finder: MTCNN) -> list[torch.Tensor | None]:
    """Landmarks (5, 2), px, of the most confident face over each picture's center, or None."""
    size = pictures.shape[-1]  # of (B, 3, S, S)
    pixels = F.interpolate(pictures, scale_factor=ENLARGED, mode="bilinear", antialias=True)
    pixels = ((pixels.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1)
    points = []
    for detections in finder.find(pixels):
        boxes = detections["boxes"] / ENLARGED
        inside = (boxes[:, :2] < size / 2).all(dim=1) & (boxes[:, 2:] > size / 2).all(dim=1)
        landmarks = detections["landmarks"][inside] / ENLARGED  # best first
        points.append(landmarks[0].cpu() if len(landmarks) else None)
    return points


# ---------------------------------------------------------------- training


def train(
    network, loss_of, faces, config, steps, lr, loop, seed, device, anonymizer=None, batch_size=None
):
    """Train by Adam with cosine decay to zero, on shuffled faces and mirror images.

    Args:
        loss_of: (pictures, landmarks, identities, originals) of a batch -> scalar; the pictures
            are the originals, anonymized if there is an anonymizer.
        faces: `datasets.FaceSet` to train on. seed: decides their order.
        loop: a new `loop.Loop`. batch_size: None: `pretrain_recognizer_batch`.
    Returns the network in eval mode.
    """
    optim.prepare(network, config, device)
    optimizer = optim.adam(network.parameters(), lr, config)
    scaler = optim.make_scaler(config, device)
    parts = {"network": network, "optimizer": optimizer, "scaler": scaler}
    if hasattr(anonymizer, "state_dict") and not isinstance(anonymizer, nn.Module):
        parts["anonymizer"] = anonymizer  # Noise counts its calls; M does not change
    loop.start(**parts)
    batch_size = batch_size or config.pretrain_recognizer_batch
    batches = datasets.batches(faces, batch_size, seed, loop.done["train"], device)
    network.train()
    for step in loop.steps("train", steps):
        optimizer.param_groups[0]["lr"] = lr * (1 + math.cos(math.pi * (step - 1) / steps)) / 2
        originals, landmarks, identities = next(batches)
        pictures = originals
        if anonymizer is not None:
            with torch.no_grad():
                pictures = anonymizer(originals)  # (B, 3, S, S)
        loss = loss_of(pictures, landmarks, identities, originals)
        optim.backward_and_step(loss, [optimizer], scaler)
        loop.log({"loss": loss})
    return network.eval()


def train_recognizer(
    recognizer, faces, config, steps: int, loop, seed: int, anonymizer=None, device="cpu"
):
    """Train a recognizer on (anonymized) faces and true identities; return it in eval mode.

    recognizer: module with `.loss(crops, identities)`; each step advances its `.margin`, if any.
    faces: as in `train`, or aligned `RepaintedFaces`.
    """

    def loss_of(pictures, landmarks, identities, originals):
        if getattr(faces, "aligned", False):
            crops = recognizer_input(pictures)  # (B, 3, h, w)
        else:
            points = jitter_landmarks(landmarks, config.landmark_jitter)  # (B, 5, 2)
            crops = aligned_crops(pictures, points, config.crop_size)  # (B, 3, h, w)
        crops = jitter_colors(crops, config.color_jitter)
        with optim.autocast(config, device):
            loss = recognizer.loss(crops, identities)
        if hasattr(recognizer, "margin"):
            recognizer.margin.advance()
        return loss

    return train(
        recognizer, loss_of, faces, config, steps, LR_RECOGNIZER, loop, seed, device, anonymizer
    )


def train_other(faces, config, loop, device="cpu") -> PlainRecognizer:
    """The attacker of another architecture, trained on originals; it never meets an anonymizer."""
    torch.manual_seed(loop.seed)
    people = int(faces.identities.max()) + 1
    other = PlainRecognizer(config.other_width, config.embedding, people).to(device)
    steps = config.attack_steps
    return train_recognizer(other, faces, config, steps, loop, loop.seed, device=device)


def train_attacker(recognizer, anonymizer, faces, config, loop, device="cpu"):
    """The `retrained` attacker: a copy of the pretrained D, trained further on a row's outputs.

    Each picture and each mirror image is anonymized once and stored, as an aligned crop if there
    is no landmark jitter. Only a `stochastic` anonymizer is called again at each step.
    """
    attacker = copy.deepcopy(recognizer).to(device)
    seed = loop.seed + 1  # not the order of D's pretraining
    if not getattr(anonymizer, "stochastic", False):
        aligned = config.landmark_jitter == 0
        faces = RepaintedFaces(faces, anonymizer, config, device, loop.folder, True, aligned)
        anonymizer = None
    return train_recognizer(
        attacker, faces, config, config.attack_steps, loop, seed, anonymizer, device
    )


def make_inverter(config):
    """A second M, of the paper's kind, to undo the first; without color matching."""
    return make_modifier(
        dataclasses.replace(config, modifier_exchange=False, modifier_match_color=False)
    )


def train_inverter(anonymizer, faces, config, loop, device="cpu"):
    """Train the network of the `inverting` attackers: M(f) -> f, by L1 (ours)."""
    torch.manual_seed(loop.seed)
    inverter = make_inverter(config).to(device)

    def loss_of(modified, landmarks, identities, originals):
        with optim.autocast(config, device):
            restored = inverter(modified)  # (B, 3, S, S)
        return F.l1_loss(restored.float(), originals)

    seed = loop.seed + 2  # not the other attacker's order
    size = config.batch_faces
    steps = config.invert_steps
    train(
        inverter, loss_of, faces, config, steps, LR_INVERTER, loop, seed, device, anonymizer, size
    )
    return inverter.requires_grad_(False)


def train_landmark_reader(faces, config, loop, device="cpu") -> LandmarkReader:
    """Train the landmark reader on originals, by L1 in px (ours)."""
    torch.manual_seed(loop.seed)
    reader = LandmarkReader(config.face_size).to(device)

    def loss_of(pictures, landmarks, identities, originals):
        return F.l1_loss(reader(pictures), landmarks.to(device, non_blocking=True))

    steps = config.landmark_steps
    return train(reader, loss_of, faces, config, steps, LR_LANDMARK_READER, loop, loop.seed, device)


# ---------------------------------------------------------------- measuring


@torch.no_grad()
def embed(
    recognizer, pictures, landmarks: torch.Tensor, config, device="cpu", align_twice=False
) -> torch.Tensor:
    """Features of face pictures: f(crop) and f(mirrored crop), as in SphereFace's LFW test.

    Args:
        pictures: (N, 3, S, S) in [-1, 1], or `FaceSet.floats()`.
        landmarks: (N, 5, 2) px of the original pictures.
        align_twice: align the aligned crop once more, the classic mistake, as a control.
    Returns (N, 2E) on the CPU. The recognizer's mode is left as it was.
    """
    was_training = recognizer.training
    recognizer.eval()
    features = []
    for indices in torch.arange(len(pictures)).split(config.eval_batch):
        batch = pictures[indices].to(device)  # (B, 3, S, S)
        points = landmarks[indices]  # (B, 5, 2)
        if align_twice:
            batch = align_faces(batch, points, config.crop_size)  # (B, 3, h, w)
        crops = aligned_crops(batch, points, config.crop_size)  # (B, 3, h, w)
        both = torch.cat([recognizer(crops), recognizer(crops.flip(3))], dim=1)  # (B, 2E)
        features.append(both.cpu())
    recognizer.train(was_training)
    return torch.cat(features)


def verify(first: torch.Tensor, second: torch.Tensor, pairs) -> dict[str, float]:
    """One attacker's success on the test pairs, by the LFW protocol (SphereFace; paper Sec. 5.1).

    Args: first, second: features (N, 2E) of all test pictures, in the role of a pair's first and
        second picture. pairs: `datasets.Pairs`.
    Returns `error` (1 - mean fold accuracy; mean feature and threshold fitted on the other folds),
    and `auc`, `eer` and `tar_at_far_1e-3`, which use all pairs at once and subtract the mean
    feature of all first pictures (no label is used for it).
    """
    a = first[pairs.first]  # (P, 2E)
    b = second[pairs.second]  # (P, 2E)
    accuracy = metrics.fold_accuracy(a, b, pairs.same, pairs.folds).mean
    center = first.mean(dim=0)  # (2E,)
    scores = F.cosine_similarity(a - center, b - center)  # (P,)
    return {
        "error": 1 - float(accuracy),
        "auc": float(metrics.auc(scores, pairs.same)),
        "eer": float(metrics.eer(scores, pairs.same)),
        "tar_at_far_1e-3": float(metrics.tar_at_far(scores, pairs.same, far=1e-3)),
    }
