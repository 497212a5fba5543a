"""Correct baselines, written another way: matrices, convolutions, max-pooling, and SLIC over all
clusters at once.
"""

import hashlib

import torch
from torch.nn import functional as F


def identity(crops):
    return crops


def _check(crops):
    if crops.dim() != 4 or crops.size(1) != 3 or crops.size(2) != crops.size(3):
        raise ValueError(f"crops of {tuple(crops.shape)} are no batch of square pictures")
    return crops.size(3)


class Blur:
    """A picture between two matrices: up @ down @ picture @ down' @ up'."""

    def __init__(self, cells):
        self.cells = self.smallest = cells

    def __call__(self, crops):
        size = _check(crops)
        if size < self.cells:
            return crops
        n = self.cells
        down = torch.zeros(n, size)
        up = torch.zeros(size, n)
        for cell in range(n):
            first = cell * size // n
            last = -(-(cell + 1) * size // n)
            down[cell, first:last] = 1 / (last - first)
        for pixel in range(size):
            at = min(max((pixel + 0.5) * n / size - 0.5, 0), n - 1)
            left = min(int(at), n - 1)
            up[pixel, left] += 1 - (at - left)
            up[pixel, min(left + 1, n - 1)] += at - left
        matrix = (up @ down).to(crops)
        return torch.einsum("ih,bchw,jw->bcij", matrix, crops, matrix).clamp(-1, 1)


class Noise:
    def __init__(self, variance, seed=0):
        if variance <= 0:
            raise ValueError("no noise at all?")
        self.variance = variance
        self.seed = seed
        self.calls = 0

    def __call__(self, crops):
        _check(crops)
        name = hashlib.sha256(f"{self.seed} {self.calls}".encode()).digest()
        chance = torch.Generator(crops.device).manual_seed(int.from_bytes(name[:7], "big"))
        self.calls = self.calls + 1
        in_unit_range = (crops + 1) / 2
        noise = torch.empty_like(crops).normal_(0, self.variance**0.5, generator=chance)
        return 2 * torch.clamp(in_unit_range + noise, 0, 1) - 1

    def state_dict(self):
        return {"calls": self.calls}

    def load_state_dict(self, state):
        self.calls = state["calls"]


class Masked:
    def __init__(self, value=-1.0):
        self.value = value

    def __call__(self, crops):
        _check(crops)
        return crops.new_full(crops.shape, self.value)


class Edge:
    def __init__(self, sigma=1.0, low=0.025, high=0.05):
        self.sigma = sigma
        self.low = low
        self.high = high

    def __call__(self, crops):
        size = _check(crops)
        if len(crops) == 0:
            return crops.clone()
        crops = crops.detach()
        unit = size / 64
        gray = (0.299 * crops[:, :1] + 0.587 * crops[:, 1:2] + 0.114 * crops[:, 2:] + 1) / 2
        reach = int(-(-3 * self.sigma * unit // 1))
        bell = torch.exp(
            -(torch.arange(-reach, reach + 1).to(crops) ** 2) / (2 * (self.sigma * unit) ** 2)
        )
        bell = bell / bell.sum()
        gray = self._convolve(self._convolve(gray, bell[None]), bell[:, None])
        slope = gray.new_tensor([-0.5, 0, 0.5])
        smooth = gray.new_tensor([0.25, 0.5, 0.25])
        gx = self._convolve(gray, smooth[:, None] * slope)
        gy = self._convolve(gray, slope[:, None] * smooth)
        strength = (gx**2 + gy**2).sqrt() * unit
        # Rounding must not decide between two equal neighbors: a hair's breadth counts as equal.
        after = []
        before = []
        padded = F.pad(strength, (1, 1, 1, 1))
        for dy, dx in ((0, 1), (1, 1), (1, 0), (1, -1)):
            after.append(padded[..., 1 + dy : 1 + dy + size, 1 + dx : 1 + dx + size])
            before.append(padded[..., 1 - dy : 1 - dy + size, 1 - dx : 1 - dx + size])
        sector = (torch.atan2(gy, gx) / (torch.pi / 4)).round().long() % 4
        ahead = torch.stack(after).gather(0, sector[None])[0]
        behind = torch.stack(before).gather(0, sector[None])[0]
        thin = torch.where(
            (strength > ahead - 1e-6) & (strength > behind + 1e-6),
            strength,
            torch.zeros_like(strength),
        )
        strong = (thin > self.high).to(crops)
        weak = (thin > self.low).to(crops)
        for _ in range(size * size):
            wider = F.max_pool2d(strong, 3, 1, 1) * weak
            if (wider == strong).all():
                break
            strong = wider
        return (2 * strong - 1).repeat(1, 3, 1, 1)

    @staticmethod
    def _convolve(x, kernel):
        high = kernel.shape[0] // 2
        wide = kernel.shape[1] // 2
        return F.conv2d(F.pad(x, (wide, wide, high, high), mode="replicate"), kernel[None, None])


class SuperPixel:
    def __init__(self, grid=8, compactness=40.0, iterations=5):
        self.grid = grid
        self.compactness = compactness
        self.iterations = iterations

    def __call__(self, crops):
        labels = self.segment(crops)
        out = torch.empty_like(crops)
        for picture, label, painted in zip(crops, labels, out):
            for k in label.unique():
                painted[:, label == k] = picture[:, label == k].mean(1, keepdim=True)
        return out.clamp(-1, 1)

    def segment(self, crops):
        size = _check(crops)
        found = [self._one(picture) for picture in crops.detach()]
        return torch.stack(found) if found else torch.zeros(0, size, size, dtype=torch.long)

    def _one(self, picture):
        size = picture.shape[-1]
        n = min(self.grid, size)
        step = -(-size // n)
        if size < n * step:  # some rows and columns count twice
            lines = ((torch.arange(n * step) + 0.5) * size / (n * step)).long()
            back = ((torch.arange(size) + 0.5) * n * step / size).long()
            return self._one(picture[:, lines][:, :, lines])[back][:, back]
        y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
        place = torch.stack([x + 0.5, y + 0.5]) * self.compactness / step
        points = torch.cat([_lab(picture), place.to(picture)]).flatten(1).T.double()  # (S*S, 5)
        home = (y // step * n + x // step).flatten()
        far = ((home[:, None] // n - torch.arange(n * n) // n).abs() > 1) | (
            (home[:, None] % n - torch.arange(n * n) % n).abs() > 1
        )
        # Starts at its cell's mean.
        centers = torch.stack([points[home == k].mean(0) for k in range(n * n)])
        for _ in range(self.iterations):
            label = torch.cdist(points, centers).masked_fill(far, float("inf")).argmin(1)
            member = F.one_hot(label, n * n).double()
            count = member.sum(0)[:, None]
            centers = torch.where(count > 0, member.T @ points / count.clamp(min=1), centers)
        return (
            torch.cdist(points, centers).masked_fill(far, float("inf")).argmin(1).view(size, size)
        )


def _lab(picture):
    s = (picture.double() + 1) / 2
    linear = torch.where(s > 0.04045, ((s.clamp(min=0) + 0.055) / 1.055) ** 2.4, s / 12.92)
    matrix = torch.tensor(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    ).double()
    white = matrix.sum(1)
    t = torch.einsum("ij,jhw->ihw", matrix, linear) / white[:, None, None]
    f = torch.where(t > 216 / 24389, t.clamp(min=1e-9) ** (1 / 3), (24389 / 27 * t + 16) / 116)
    return torch.stack([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])]).to(picture)


BASELINES = {"Un-anonymized": lambda seed: identity}
for _cells in (8, 16, 24):
    BASELINES[f"Blur({_cells}x{_cells})"] = lambda seed, cells=_cells: Blur(cells)
for _variance in (0.1, 0.3, 0.5):
    BASELINES[f"Noise({_variance})"] = lambda seed, variance=_variance: Noise(variance, seed)
BASELINES.update(
    {
        "Masked": lambda seed: Masked(),
        "Edge": lambda seed: Edge(),
        "Super-Pixel": lambda seed: SuperPixel(),
    }
)


def make_baseline(name, seed=0):
    try:
        return BASELINES[name](seed)
    except KeyError:
        raise ValueError("known names: " + " ".join(BASELINES)) from None
