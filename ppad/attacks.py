"""Privacy, measured honestly: recognisers that try to see through an anonymizer.

Paper Sec. 5.1 measures privacy as the verification error of the very D that M was trained against.
That D is the weakest judge there is: M has learnt to fool it and nobody else. So every row of our table
also faces recognisers that M never met:

* `never_saw`: D as it was before the game, trained on originals only;
* `other_architecture`: a plain convolutional network with batch norm and an ordinary softmax;
* `retrained`: an attacker who owns the anonymizer, repaints a labelled face set with it and trains on
  the result with the true names (the identities are disjoint from the test pairs).

All train by `train_recognizer` and all are judged by `verify`. A recogniser is any module that maps
aligned crops (B, 3, h, w), BGR, to embeddings (B, E).
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from ppad import metrics
from ppad.crop_sampler import align_faces, recognizer_input
from ppad.datasets import Feed
from ppad.speed import Speed

AVERAGE_EYE_DISTANCE = 35.24  # px between the eyes of the 112x96 template (SphereFace's alignment)


class PlainRecognizer(nn.Module):
    """The other architecture: four conv-BN-ReLU pairs with max pools, averaged over space, no angular margin.

    Args: width (channels of the first pair), embedding (size E of the output), identities (training classes).
    """

    def __init__(self, width: int = 64, embedding: int = 512, identities: int = 10572):
        super().__init__()
        layers, channels = [], 3
        for stage in range(4):
            out = width * 2 ** min(stage, 3)
            for _ in range(
                2 if stage else 1
            ):  # one conv at full resolution is enough and is the dear one
                layers += [
                    nn.Conv2d(channels, out, 3, padding=1, bias=False),
                    nn.BatchNorm2d(out),
                    nn.ReLU(),
                ]
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
        """Softmax cross-entropy with label smoothing 0.1 (ours: a plain softmax overfits a small set)."""
        identities = identities.to(crops.device, non_blocking=crops.device.type != "cpu")
        return F.cross_entropy(self.classify(F.relu(self(crops))), identities, label_smoothing=0.1)


class AngularRecognizer(nn.Module):
    """D as the game and the attacks use it: SphereFace, its head and its A-Softmax in one place.

    `loss` is the paper's L_D (Sec. 3.1). The margin's step counter is in the state dict, so neither a
    checkpoint nor an attack that starts from trained weights sets lambda back to its beginning.
    """

    def __init__(self, network: nn.Module, head: nn.Module, margin: nn.Module):
        super().__init__()
        self.network, self.head, self.margin = network, head, margin

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        return self.network(crops)  # (B, E)

    def loss(
        self,
        crops: torch.Tensor,
        identities: torch.Tensor,
        reduction: str = "mean",
        margin: bool = True,
    ) -> torch.Tensor:
        features = self.network(crops)  # (B, E)
        with torch.autocast(
            features.device.type, enabled=False
        ):  # angles need full precision, whatever the network runs in
            cosines, norms = self.head(features.float())  # (B, N), (B, 1)
        return self.margin(cosines, norms, identities, reduction=reduction, margin=margin)


def aligned_crops(
    pictures: torch.Tensor, landmarks: torch.Tensor, size: tuple[int, int]
) -> torch.Tensor:
    """What a recogniser sees of face pictures (B, 3, S, S) in [-1, 1]: (B, 3, h, w) BGR, aligned by the five points.

    The landmarks are those of the *original* picture also when `pictures` are modified: a fair attacker
    may know where the face was, and an alignment that fails would look like privacy.
    """
    return recognizer_input(align_faces(pictures, landmarks, size))


def jittered(landmarks: torch.Tensor, pixels: float) -> torch.Tensor:
    """Landmarks (B, 5, 2) with Gaussian noise of `pixels` (at a crop height of 112): alignment varies, faces do not."""
    if pixels == 0:
        return landmarks
    eyes = (landmarks[:, 1] - landmarks[:, 0]).norm(dim=1)[:, None, None]  # (B, 1, 1)
    return landmarks + torch.randn_like(landmarks) * pixels * eyes / AVERAGE_EYE_DISTANCE


def recoloured(crops: torch.Tensor, strength: float) -> torch.Tensor:
    """Crops (B, 3, h, w) with random contrast (1 +- strength) and brightness (+- strength), one draw a picture."""
    if strength == 0:
        return crops
    draw = (
        2 * torch.rand(2, len(crops), 1, 1, 1, device=crops.device) - 1
    ) * strength  # (2, B, 1, 1, 1)
    return (crops * (1 + draw[0]) + draw[1]).clamp(-1, 1)


def train_recognizer(
    recognizer, faces, batches, config, steps: int, loop, anonymizer=None, device="cpu"
):
    """Train `recognizer` on (repainted) faces with their true names, Adam 1e-3 falling to zero along a cosine (ours).

    Args:
        recognizer: module with `.loss(crops, identities)`; an `AngularRecognizer` has its margin advanced.
        faces: `datasets.FaceSet` of the attacker's people; batches: `datasets.Batches` over it.
        loop: a fresh `loop.Loop`: it shows progress, checkpoints and resumes.
        anonymizer: any (B, 3, S, S) -> (B, 3, S, S), applied to every picture, frozen; None = originals.
    Returns the recogniser in eval mode.
    """
    size = (config.recognizer_height, config.recognizer_breadth)
    speed = Speed(config, device)
    speed.prepare(getattr(recognizer, "network", recognizer))
    optimizer, feed = speed.adam(recognizer.parameters(), 1e-3), Feed(faces, batches, device)
    recognizer.train()

    def step(number: int) -> dict:
        optimizer.param_groups[0]["lr"] = (
            1e-3 * 0.5 * (1 + math.cos(math.pi * (number - 1) / steps))
        )
        pictures, landmarks, identities = feed.next()
        if anonymizer is not None:
            with torch.no_grad():
                pictures = anonymizer(pictures)  # (B, 3, S, S)
        crops = aligned_crops(pictures, jittered(landmarks, config.landmark_jitter), size)
        crops = recoloured(crops, config.colour_jitter)
        with speed.autocast():
            loss = recognizer.loss(crops, identities)
        speed.descend([optimizer], loss)
        if hasattr(recognizer, "margin"):
            recognizer.margin.advance()
        return {"loss": loss}

    parts = {"recognizer": recognizer, "optimizer": optimizer, "batches": batches, **speed.parts()}
    if hasattr(anonymizer, "state_dict") and not isinstance(anonymizer, nn.Module):
        parts["anonymizer"] = anonymizer  # Noise counts its calls; M stands still
    loop.start(**parts)
    loop.stage("train", steps, step)
    return recognizer.eval()


@torch.no_grad()
def repaint_set(faces, anonymizer, config, device="cpu") -> torch.Tensor:
    """Every picture of a `FaceSet` through an anonymizer: (N, 3, S, S) in [-1, 1] on the CPU."""
    whole = torch.empty(
        len(faces), *faces.images.shape[1:]
    )  # once: LFW at 256 px is 10 GB of floats
    for start in range(0, len(faces), config.eval_batch):
        index = torch.arange(start, min(start + config.eval_batch, len(faces)))
        whole[index] = anonymizer(faces.batch(index, device=device)[0]).cpu()
    return whole


@torch.no_grad()
def embed(
    recognizer,
    pictures: torch.Tensor,
    landmarks: torch.Tensor,
    config,
    device="cpu",
    align_twice=False,
):
    """Features (N, 2E) of face pictures: f(crop) and f(mirrored crop) side by side, as SphereFace tests on LFW.

    pictures: a tensor (N, 3, S, S) in [-1, 1], or `FaceSet.floats()`. `align_twice` aligns the aligned crop once more with
    the landmarks of the uncropped picture, the classic mistake: the control that shows how far an intact recogniser falls
    on faces nobody anonymized.
    """
    size, was_training = (config.recognizer_height, config.recognizer_breadth), recognizer.training
    recognizer.eval()
    parts = []
    for start in range(0, len(pictures), config.eval_batch):
        batch = pictures[start : start + config.eval_batch].to(device)
        points = landmarks[start : start + config.eval_batch]
        if align_twice:
            batch = align_faces(batch, points, size)  # (B, 3, h, w), aligned once
        crops = aligned_crops(batch, points, size)
        parts.append(
            torch.cat([recognizer(crops), recognizer(crops.flip(3))], dim=1).cpu()
        )  # (B, 2E)
    recognizer.train(was_training)
    return torch.cat(parts)


def verify(first: torch.Tensor, second: torch.Tensor, pairs) -> dict[str, float]:
    """One attacker's success on the test pairs, by the LFW protocol (SphereFace; paper Sec. 5.1).

    Args: first, second: features (N, 2E) of all test pictures, as they appear as first and as second of a pair;
        pairs: `datasets.Pairs`.
    Returns `error` (1 - mean fold accuracy; mean feature and threshold fitted on the other folds), and `auc`, `eer`,
    `tar_at_far_1e-3`, which look at all pairs at once and subtract the mean of all first pictures (no label enters it).
    """
    a, b = first[pairs.first], second[pairs.second]  # (P, 2E)
    mean = metrics.fold_accuracy(a, b, pairs.same, pairs.folds).mean
    centre = first.mean(dim=0)  # (2E,)
    scores = F.cosine_similarity(a - centre, b - centre)  # (P,)
    return {
        "error": 1 - float(mean),
        "auc": float(metrics.auc(scores, pairs.same)),
        "eer": float(metrics.eer(scores, pairs.same)),
        "tar_at_far_1e-3": float(metrics.tar_at_far(scores, pairs.same, far=1e-3)),
    }
