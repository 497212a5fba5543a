"""The players M, D and A as a preset sizes them, and what D is shown of a face (paper Sec. 3-4).

The three networks are `modifier`, `sphereface` and `detector`. Here they are put together: D is
SphereFace with its head and its A-Softmax; faces are aligned before D sees them, and vary a little
while it learns. The trainer, the attackers and the evaluation all take their players from here.
"""

import torch
from torch import nn

from ppad.crop_sampler import align_faces, recognizer_input
from ppad.detector import ActionDetector, DetectorConfig
from ppad.loop import read_checkpoint, save_tensors
from ppad.losses import ASoftmaxLoss
from ppad.modifier import Modifier, ModifierConfig
from ppad.sphereface import AngularMarginHead, SphereFace, SphereFaceConfig

EYE_DISTANCE = 35.24  # px between the eyes of the 112x96 template (SphereFace's alignment)


class Recognizer(nn.Module):
    """D: SphereFace, its angular-margin head and its A-Softmax in one module.

    The number of D's updates so far, which sets the margin's lambda, is in the state dict: neither
    a resumed run nor an attacker that starts from trained weights begins with it again.

    Args:
        network: aligned crops (B, 3, h, w) to embeddings (B, E).
        head: embeddings to cosines (B, N) and norms (B, 1).
        margin: `losses.ASoftmaxLoss`.
    """

    def __init__(self, network: nn.Module, head: nn.Module, margin: nn.Module):
        super().__init__()
        self.network = network
        self.head = head
        self.margin = margin

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        """Aligned BGR crops (B, 3, h, w) to embeddings (B, E)."""
        return self.network(crops)

    def loss(
        self,
        crops: torch.Tensor,
        identities: torch.Tensor,
        reduction: str = "mean",
        margin: bool = True,
    ) -> torch.Tensor:
        """The paper's L_D (Sec. 3.1), in nats.

        Args:
            crops: (B, 3, h, w), aligned. identities: (B,) int64 in 0..N-1, best on the CPU.
            reduction: "mean" gives a scalar, "none" gives (B,).
            margin: False leaves the margin out: what D decides, not what it is trained to reach.
        """
        features = self.network(crops)  # (B, E)
        # Angles need full precision, whatever the network runs in.
        with torch.autocast(features.device.type, enabled=False):
            cosines, norms = self.head(features.float())  # (B, N), (B, 1)
        return self.margin(cosines, norms, identities, reduction=reduction, margin=margin)


def make_modifier(config) -> Modifier:
    """M as the preset sizes it."""
    return Modifier(
        ModifierConfig(
            width=config.modifier_width,
            blocks=config.modifier_blocks,
            size=config.face_size,
            upsample=config.modifier_upsample,
            match_color=config.modifier_match_color,
        )
    )


def make_recognizer(config, identities: int) -> Recognizer:
    """D as the preset sizes it, for `identities` people."""
    network = SphereFace(
        SphereFaceConfig(
            depth=config.recognizer_depth,
            width=config.recognizer_width,
            embedding=config.embedding,
            input_size=(config.recognizer_height, config.recognizer_breadth),
        )
    )
    margin = ASoftmaxLoss(
        m=config.margin,
        base=config.lambda_base,
        gamma=config.lambda_gamma,
        floor=config.lambda_floor,
        scale=config.recognizer_scale,
    )
    return Recognizer(network, AngularMarginHead(config.embedding, identities), margin)


def make_detector(config, classes: int) -> ActionDetector:
    """A as the preset sizes it, for `classes` actions."""
    return ActionDetector(
        DetectorConfig(
            body=config.detector_body,
            classes=classes,
            weights=config.detector_weights or None,
            trainable_layers=config.detector_trainable,
            min_size=min(config.frame_height, config.frame_width),
            max_size=max(config.frame_height, config.frame_width),
        )
    )


# ---------------------------------------------------------------- what D is shown


def aligned_crops(
    pictures: torch.Tensor, landmarks: torch.Tensor, size: tuple[int, int]
) -> torch.Tensor:
    """What a recognizer sees of face pictures, aligned by the five landmarks (Sec. 4).

    The landmarks are those of the *original* picture also when `pictures` are modified: a fair
    attacker may know where the face was, and an alignment that fails would look like privacy.

    Args:
        pictures: (B, 3, S, S) RGB in [-1, 1]. landmarks: (B, 5, 2) px. size: (h, w) of the crops.
    Returns (B, 3, h, w) BGR.
    """
    return recognizer_input(align_faces(pictures, landmarks, size))


def jitter_landmarks(landmarks: torch.Tensor, pixels: float) -> torch.Tensor:
    """Landmarks (B, 5, 2) with Gaussian noise of `pixels` at a crop height of 112 (ours).

    The alignment varies, the faces do not.
    """
    if pixels == 0:
        return landmarks
    eyes = (landmarks[:, 1] - landmarks[:, 0]).norm(dim=1)[:, None, None]  # (B, 1, 1) px
    return landmarks + torch.randn_like(landmarks) * pixels * eyes / EYE_DISTANCE


def jitter_colors(crops: torch.Tensor, strength: float) -> torch.Tensor:
    """Crops (B, 3, h, w) with random contrast (1 +- strength) and brightness (+- strength) (ours).

    One draw a picture; values stay in [-1, 1].
    """
    if strength == 0:
        return crops
    draw = 2 * torch.rand(2, len(crops), 1, 1, 1, device=crops.device) - 1  # (2, B, 1, 1, 1)
    contrast, brightness = draw * strength  # (B, 1, 1, 1) each
    return (crops * (1 + contrast) + brightness).clamp(-1, 1)


# ---------------------------------------------------------------- on disk


def save_players(path, config: dict, parts: dict) -> None:
    """Write networks to one file, in half precision. Raises files.WriteError.

    Args: config: the preset's fields. parts: name -> state dict.
    """
    halves = {
        name: {
            key: value.half() if value.is_floating_point() else value
            for key, value in state.items()
        }
        for name, state in parts.items()
    }
    save_tensors(path, {"config": config, "parts": halves})


def load_players(path) -> dict:
    """What `save_players` wrote: {"config": fields, "parts": {name: state dict}}.

    `load_state_dict` turns the values into full precision. Raises LoopError naming the file.
    """
    return read_checkpoint(path)
