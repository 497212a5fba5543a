"""A correct sphereface, written another way: bare parameters in lists, functions for layers,
cosines row by row.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

UNITS_PER_DEPTH = {4: (0, 0, 0, 0), 10: (0, 1, 2, 0), 20: (1, 2, 4, 1)}
STAGE_MULTIPLES = (1, 2, 4, 8)
PRELU_INIT = 0.25
RESIDUAL_INIT_STD = 0.01


@dataclass(frozen=True)
class SphereFaceConfig:
    depth: int = 20
    width: int = 64
    embedding: int = 512
    input_size: tuple = (112, 96)

    def __post_init__(self):
        if self.depth not in (4, 10, 20):
            raise ValueError("depth: 4, 10 or 20")
        for name in ("width", "embedding"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: positive")
        if any(side <= 0 for side in self.input_size):
            raise ValueError("input_size: height and width, positive")


def _uniform(*shape):
    """Caffe's xavier: variance 1 / fan_in."""
    reach = (3 * shape[0] / torch.Size(shape).numel()) ** 0.5
    return nn.Parameter((2 * torch.rand(shape) - 1) * reach)


class ConvPReLU(nn.Module):
    def __init__(self, channels_in, channels_out, stride):
        super().__init__()
        self.slope = nn.Parameter(torch.full((channels_out,), PRELU_INIT))
        self.shift = nn.Parameter(torch.zeros(channels_out))
        self.kernel = _uniform(channels_out, channels_in, 3, 3)
        self.stride = stride

    def forward(self, x):
        y = F.conv2d(F.pad(x, (1, 1, 1, 1)), self.kernel, self.shift, self.stride)
        return y.clamp(min=0) + self.slope.view(-1, 1, 1) * y.clamp(max=0)


class ResidualUnit(nn.Module):
    def __init__(self, channels):
        super().__init__()
        # Registered out of order: names and order are free.
        self.second = ConvPReLU(channels, channels, 1)
        self.first = ConvPReLU(channels, channels, 1)
        with torch.no_grad():
            for layer in (self.first, self.second):
                layer.kernel.copy_(torch.randn(layer.kernel.shape) * RESIDUAL_INIT_STD)

    def forward(self, x):
        return self.second(self.first(x)) + x


class SphereFace(nn.Module):
    def __init__(self, config=SphereFaceConfig()):
        super().__init__()
        self.config = config
        high, wide = config.input_size
        for _ in STAGE_MULTIPLES:
            high = (high + 1) // 2
            wide = (wide + 1) // 2
        deepest = config.width * STAGE_MULTIPLES[-1]
        weight = _uniform(config.embedding, deepest * high * wide)
        self.last = nn.ParameterDict({"w": weight, "b": torch.zeros(config.embedding)})
        self.begin = nn.ModuleList()
        self.units = nn.ModuleList()
        come = 3
        for multiple, units in zip(STAGE_MULTIPLES, UNITS_PER_DEPTH[config.depth]):
            go = multiple * config.width
            self.begin.append(ConvPReLU(come, go, 2))
            self.units.append(nn.ModuleList(ResidualUnit(go) for _ in range(units)))
            come = go

    def forward(self, faces):
        high, wide = self.config.input_size
        if faces.dim() != 4 or faces.shape[1:] != (3, high, wide):
            raise ValueError(f"faces: (B, 3, {high}, {wide}), not {list(faces.shape)}")
        x = faces
        for begin, units in zip(self.begin, self.units):
            x = begin(x)
            for unit in units:
                x = unit(x)
        return (
            torch.einsum("bk,ek->be", x.reshape(len(x), self.last["w"].shape[1]), self.last["w"])
            + self.last["b"]
        )


class AngularMarginHead(nn.Module):
    def __init__(self, embedding, identities):
        super().__init__()
        if embedding < 1:
            raise ValueError("embedding: at least 1")
        if identities < 1:
            raise ValueError("identities: at least 1")
        self.weight = _uniform(identities, embedding)

    def forward(self, embeddings):
        if embeddings.dim() != 2 or embeddings.size(1) != self.weight.size(1):
            raise ValueError(f"embeddings: (B, {self.weight.size(1)})")
        norms = torch.linalg.vector_norm(embeddings, dim=1, keepdim=True)
        columns = [
            F.cosine_similarity(embeddings, direction[None], dim=1) for direction in self.weight
        ]
        cosines = torch.stack(columns, dim=1)
        return torch.minimum(
            torch.maximum(cosines, -torch.ones_like(cosines)), torch.ones_like(cosines)
        ), norms
