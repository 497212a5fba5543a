"""A correct modifier, written another way: a flat list of kernels, mirrors by index, own norm."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

HALVINGS = 2
INIT_STD = 0.02
SMALLEST_SIZE = 8
UPSAMPLERS = ("transposed", "resize")


@dataclass(frozen=True)
class ModifierConfig:
    width: int = 64
    blocks: int = 9
    size: int = 256
    upsample: str = "transposed"
    match_color: bool = False

    def __post_init__(self):
        good = {
            "width": self.width > 0,
            "blocks": self.blocks >= 0,
            "size": self.size >= 8 and self.size % 4 == 0,
            "upsample": self.upsample in UPSAMPLERS,
        }
        for name, is_good in good.items():
            if not is_good:
                raise ValueError(f"{name} cannot be {getattr(self, name)!r}")


class _Norm(nn.Module):
    def forward(self, x):
        flat = x.flatten(2)
        flat = flat - flat.mean(2, keepdim=True)
        return (flat * (flat.square().mean(2, keepdim=True) + 1e-5).rsqrt()).view_as(x)


def instance_norm(channels):
    return _Norm()


def _mirror(x, by):
    for axis in (2, 3):
        side = x.shape[axis]
        place = torch.arange(-by, side + by, device=x.device).abs()
        place = torch.where(place >= side, 2 * (side - 1) - place, place)
        x = x.index_select(axis, place)
    return x


def _kernel(out, come, side):
    return nn.Parameter(torch.randn(out, come, side, side) * INIT_STD)


class ResidualBlock(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.shifts = nn.ParameterList(torch.zeros(channels) for _ in range(2))
        self.kernels = nn.ParameterList(_kernel(channels, channels, 3) for _ in range(2))
        self.norm = instance_norm(channels)

    def forward(self, x):
        y = self.norm(F.conv2d(_mirror(x, 1), self.kernels[0], self.shifts[0]))
        return x + self.norm(F.conv2d(_mirror(y.clamp(min=0), 1), self.kernels[1], self.shifts[1]))


class Modifier(nn.Module):
    def __init__(self, config=ModifierConfig()):
        super().__init__()
        self.config = config
        self.size = config.size
        w = config.width
        plan = [
            ("out", w, 3, 7),
            ("up2", 2 * w, w, 3),
            ("up1", 4 * w, 2 * w, 3),  # (name, one end, other end, side)
            ("in", w, 3, 7),
            ("down1", 2 * w, w, 3),
            ("down2", 4 * w, 2 * w, 3),
        ]
        self.kernels = nn.ParameterDict()
        self.shifts = nn.ParameterDict()
        for name, thick, thin, side in plan:
            out = thin if name[:2] in ("up", "ou") else thick
            # (in, out), as torch wants these
            turned = name[:2] == "up" and config.upsample == "transposed"
            come = thick + thin - out
            self.kernels[name] = _kernel(come, out, side) if turned else _kernel(out, come, side)
            self.shifts[name] = nn.Parameter(torch.zeros(out))
        self.blocks = nn.ModuleList(ResidualBlock(4 * w) for _ in range(config.blocks))
        self.norm = instance_norm(None)

    def _conv(self, name, x, **how):
        return F.conv2d(x, self.kernels[name], self.shifts[name], **how)

    def _up(self, name, x):
        if self.config.upsample == "resize":
            doubled = x[:, :, :, None, :, None].expand(-1, -1, -1, 2, -1, 2)
            return self._conv(
                name, doubled.reshape(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3]), padding=1
            )
        whole = F.conv_transpose2d(
            x, self.kernels[name], self.shifts[name], stride=2, output_padding=1
        )
        return whole[:, :, 1:-1, 1:-1]

    def forward(self, faces):
        if faces.dim() != 4 or list(faces.shape[1:]) != [3, self.size, self.size]:
            raise ValueError(f"faces: (B, 3, {self.size}, {self.size}), not {list(faces.shape)}")
        if not len(faces):
            return torch.zeros_like(faces)
        x = self.norm(self._conv("in", _mirror(faces, 3))).clamp(min=0)
        for name in ("down1", "down2"):
            x = self.norm(self._conv(name, x, stride=2, padding=1)).clamp(min=0)
        for block in self.blocks:
            x = block(x)
        for name in ("up1", "up2"):
            x = self.norm(self._up(name, x)).clamp(min=0)
        x = self._conv("out", _mirror(x, 3))
        if self.config.match_color:
            flat = faces.flatten(2)
            mean = flat.sum(2) / flat.shape[2]
            spread = ((flat - mean[:, :, None]).square().sum(2) / (flat.shape[2] - 1)).sqrt()
            mean = (0.95 * mean).clamp(-0.999, 0.999)
            x = (
                0.5 * torch.log((1 + mean) / (1 - mean))[:, :, None, None]
                + 2 * spread[:, :, None, None] * x
            )
        return 2 * torch.sigmoid(2 * x) - 1  # tanh
