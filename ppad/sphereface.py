"""The face recognizer D: an aligned face goes in, an embedding of 512 numbers comes out.

Paper: Ren, Lee, Ryoo, ECCV 2018, section 4, "Face Identity Classification": SphereFace-20 of
Liu et al. (CVPR 2017, the paper's [26]), pretrained on CASIA-WebFace.

Input: an *aligned* face (eyes, nose and mouth moved onto fixed places), 112 high and 96 wide,
channels **BGR**, values (x - 127.5) / 128 of the 0..255 picture. That is not M's range or
channel order; `crop_sampler.recognizer_input` converts, so that published weights stay usable.

    stage   first conv (stride 2)   residual units: depth 20 / 10 / 4   out (default)
    1         3 ->  64              1 / 0 / 0                            64 x 56 x 48
    2        64 -> 128              2 / 1 / 0                           128 x 28 x 24
    3       128 -> 256              4 / 2 / 0                           256 x 14 x 12
    4       256 -> 512              1 / 0 / 0                           512 x  7 x  6
    fc5     21,504 -> 512, no activation: this is the embedding
    fc6     512 -> N identities, only while training: `AngularMarginHead`

Every conv is 3 x 3 with padding 1 and a bias, followed by a PReLU with one slope per channel.
There is no batch norm, so an embedding depends on its own picture alone, not on the batch.

**Parameters without fc6.** Depth 20 has 22,670,656, depth 10 has 15,219,264 and depth 4 has
12,562,496; fc5 alone is 11,010,560 of them. The head is not used after training: new people are
compared by the angle between two embeddings.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

# Residual units per stage (Liu et al., Table 2). Depth counts convs: 4 strided, 2 in each unit.
UNITS_PER_DEPTH = {20: (1, 2, 4, 1), 10: (0, 1, 2, 0), 4: (0, 0, 0, 0)}
# Channels of the four stages in units of `width`: 64, 128, 256, 512 (Liu et al.).
STAGE_MULTIPLES = (1, 2, 4, 8)
# First slope of every PReLU (He et al. 2015; also Caffe's default, which Liu et al. keep).
PRELU_INIT = 0.25
# Standard deviation of the convs inside residual units (Liu et al.'s public file): so small that
# each unit starts as almost the identity, which lets 20 layers train without normalization.
RESIDUAL_INIT_STD = 0.01


@dataclass(frozen=True)
class SphereFaceConfig:
    """The size of D. The defaults are the paper's network.

    depth       conv layers: 20 (the paper), 10 or 4 (smaller presets).
    width       channels of the first stage; 64 in Liu et al.
    embedding   length E of the embedding; 512 in Liu et al.
    input_size  (height, width) of the aligned face, pixels; (112, 96) in Liu et al. Each
                stage halves it, rounding up, and fc5 is sized to what is left.
    """

    depth: int = 20
    width: int = 64
    embedding: int = 512
    input_size: tuple[int, int] = (112, 96)

    def __post_init__(self):
        if self.depth not in UNITS_PER_DEPTH:
            depths = sorted(UNITS_PER_DEPTH)
            raise ValueError(f"depth must be one of {depths}, but is {self.depth}.")
        for name in ("width", "embedding"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, but is {getattr(self, name)}.")
        if len(self.input_size) != 2 or min(self.input_size) < 1:
            raise ValueError(f"input_size must be (height, width) in px, but is {self.input_size}.")


class ConvPReLU(nn.Sequential):
    """3 x 3 conv and its per-channel PReLU: (B, C_in, h, w) -> (B, C_out, ~h/stride, ~w/stride)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int):
        super().__init__(
            nn.Conv2d(channels_in, channels_out, kernel_size=3, stride=stride, padding=1),
            nn.PReLU(channels_out, init=PRELU_INIT),
        )
        nn.init.zeros_(self[0].bias)


class ResidualUnit(nn.Module):
    """y = x + PReLU(conv(PReLU(conv(x)))), (B, C, h, w) -> (B, C, h, w).

    Unlike a ResNet block, it has its last activation *before* the sum and none after it
    (Liu et al.'s public file).
    """

    def __init__(self, channels: int):
        super().__init__()
        self.correction = nn.Sequential(
            ConvPReLU(channels, channels, stride=1), ConvPReLU(channels, channels, stride=1)
        )
        for conv_prelu in self.correction:
            nn.init.normal_(conv_prelu[0].weight, mean=0.0, std=RESIDUAL_INIT_STD)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features + self.correction(features)


class SphereFace(nn.Module):
    """D without its classification layer (Liu et al. 2017; the paper, section 4).

    The strided convs and fc5 start as Caffe's "xavier": U(-b, b), b = sqrt(3 / fan_in), bias 0.

    >>> toy = SphereFaceConfig(depth=4, width=16, embedding=128, input_size=(56, 48))
    >>> recognizer = SphereFace(toy)
    >>> recognizer(torch.zeros(2, 3, 56, 48)).shape
    torch.Size([2, 128])
    """

    def __init__(self, config: SphereFaceConfig = SphereFaceConfig()):
        super().__init__()
        self.config = config

        layers = []
        channels = 3
        for multiple, units in zip(STAGE_MULTIPLES, UNITS_PER_DEPTH[config.depth]):
            first = ConvPReLU(channels, config.width * multiple, stride=2)
            _caffe_xavier(first[0].weight)
            channels = config.width * multiple
            layers.append(first)
            layers.extend(ResidualUnit(channels) for _ in range(units))
        self.stages = nn.Sequential(*layers)

        height, width = (math.ceil(side / 16) for side in config.input_size)  # halved four times
        self.fc5 = nn.Linear(channels * height * width, config.embedding)
        _caffe_xavier(self.fc5.weight)
        nn.init.zeros_(self.fc5.bias)

    def forward(self, faces: torch.Tensor) -> torch.Tensor:
        """Embed a batch of aligned faces.

        faces: (B, 3, h, w), BGR, (x - 127.5) / 128, with (h, w) = config.input_size; B may be 0.
        Returns embeddings (B, E), not normalized: A-Softmax uses their length. Raises
        ValueError for any other shape.
        """
        wanted = (3, *self.config.input_size)
        if faces.shape[1:] != wanted:
            raise ValueError(f"faces must be (B, *{wanted}), but is {tuple(faces.shape)}.")
        features = self.stages(faces)  # (B, 8 * width, ~h/16, ~w/16)
        return self.fc5(features.flatten(start_dim=1))  # (B, E)


class AngularMarginHead(nn.Module):
    """fc6: the cosine of an embedding to each training identity (Liu et al. 2017, section 3.1).

    Each identity j has one direction W_j, a row of `weight` (N, E), normalized to length 1 at
    *every* forward and without bias, so that only the angle counts. It starts as fc5 does. The
    margin and the loss are in `ASoftmaxLoss`.

    embedding: E. identities: N. Raises ValueError if either is below 1.
    """

    def __init__(self, embedding: int, identities: int):
        super().__init__()
        if embedding < 1 or identities < 1:
            raise ValueError(
                f"embedding and identities must be at least 1, but are {embedding}, {identities}."
            )
        self.weight = nn.Parameter(torch.empty(identities, embedding))
        _caffe_xavier(self.weight)

    def forward(self, embeddings: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """embeddings (B, E) -> cosines (B, N) in [-1, 1] and norms (B, 1) >= 0.

        norms * cosines are the logits of a softmax without margin. For an embedding of all zeros
        the cosines are 0 and the gradient is finite. Raises ValueError for other shapes.
        """
        wanted = self.weight.shape[1]
        if embeddings.shape[1:] != (wanted,):
            raise ValueError(f"embeddings must be (B, {wanted}), but is {tuple(embeddings.shape)}.")
        norms = embeddings.norm(dim=1, keepdim=True)  # (B, 1)
        cosines = F.normalize(embeddings, dim=1) @ F.normalize(self.weight, dim=1).T  # (B, N)
        # Rounding can give 1.0000001, which is not a cosine.
        return cosines.clamp(-1.0, 1.0), norms


def _caffe_xavier(weight: torch.Tensor) -> None:
    """U(-b, b), b = sqrt(3 / fan_in), in place: what Caffe, in which Liu et al. trained, calls
    "xavier"; torch's xavier_uniform_ averages fan_in and fan_out."""
    bound = math.sqrt(3.0 / weight[0].numel())
    nn.init.uniform_(weight, -bound, bound)
