"""The hand-made anonymizers that the paper compares M with.

Paper: Sec. 5.2 and Fig. 3, the rows of Table 1. Each baseline is an anonymizer like M: a callable
from face crops (B, 3, S, S), RGB in [-1, 1], to the same shape and range, on the crops' device. All
but `identity` raise ValueError for anything but square RGB. None of them learns anything, and the
result for a picture does not depend on the others in the batch.

M has a `.size`; these have none and take crops of any S. On frames, `crop_sampler.repaint` calls
them once per face with the frame's own pixels. So a noise's variance is exact in the frame that the
action detector A sees, and an edge is one pixel wide.

What the paper leaves open is marked as ours.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F


def identity(crops):
    """`Un-anonymized`: the crops as they are. (B, 3, S, S) -> same."""
    return crops


@dataclass(frozen=True)
class Blur:
    """Down to cells x cells pixels, then back up (8, 16 and 24 in the paper).

    Down by area mean, so that finer detail leaves no aliasing; up bilinear (both ours). Crops of
    fewer than `smallest` (= cells) pixels a side come back unchanged: callers must count them or
    hide them in another way.
    """

    cells: int

    @property
    def smallest(self):
        """The smallest side, in pixels, of crops that are changed."""
        return self.cells

    def __call__(self, crops):
        """(B, 3, S, S) -> same, in [-1, 1]."""
        size = _side(crops)
        if size < self.cells:
            return crops
        small = F.interpolate(crops, size=(self.cells, self.cells), mode="area")  # (B, 3, n, n)
        return F.interpolate(small, size=(size, size), mode="bilinear", align_corners=False)


class Noise:
    """Additive Gaussian noise of a variance (0.1, 0.3, 0.5 in the paper), clipped to the range.

    The variance holds for pictures in [0, 1] before clipping (ours, as in image libraries). In
    [-1, 1] the standard deviation is then 2 sqrt(variance).

    Each call draws new noise, determined by (seed, number of earlier calls); different pairs give
    different noise. To continue a stopped run, save `state_dict()`, which holds that number, and
    load it. The noise differs between kinds of device, as torch's generators do.
    """

    stochastic = True  # each call draws new noise: do not cache its outputs

    def __init__(self, variance, seed=0):
        if not variance > 0:
            raise ValueError(f"variance must be greater than 0, got {variance}")
        self.variance = variance
        self.seed = seed
        self.calls = 0

    def __call__(self, crops):
        """(B, 3, S, S) -> same, in [-1, 1]."""
        _side(crops)
        generator = torch.Generator(crops.device)
        # The prime factor (ours) makes the calls of all seeds differ.
        generator.manual_seed((self.seed * 1_000_003 + self.calls) % 2**64)
        self.calls += 1
        draw = crops.new_empty(crops.shape).normal_(generator=generator)  # (B, 3, S, S)
        return (crops + 2 * math.sqrt(self.variance) * draw).clamp(-1, 1)

    def state_dict(self):
        """{"calls": number of calls so far}."""
        return {"calls": self.calls}

    def load_state_dict(self, state):
        """Continue after `state["calls"]` calls. Raises KeyError for another kind of state."""
        self.calls = int(state["calls"])


@dataclass(frozen=True)
class Masked:
    """The whole face box in one color: black (ours; the paper does not say)."""

    value: float = -1.0

    def __call__(self, crops):
        """(B, 3, S, S) -> same, every pixel `value`."""
        _side(crops)
        return torch.full_like(crops, self.value)


@dataclass(frozen=True)
class Edge:
    """The crop's edge map, white on black, after Canny: smooth, differentiate, thin, link.

    The parameters (ours) were set by eye on LFW faces so that outline, brows, eyes and mouth are
    drawn and skin is not. Their unit of length is 1/64 of the crop's side, so that a face gives the
    same drawing at any S: sigma is the smoothing; low and high are the thresholds in gray levels
    (0 to 1) per 1/64.
    """

    sigma: float = 1.0
    low: float = 0.025
    high: float = 0.05

    @torch.no_grad()  # an edge map is piecewise constant: its gradient is 0 wherever it exists
    def __call__(self, crops):
        """(B, 3, S, S) -> same, -1 or +1."""
        unit = _side(crops) / 64  # pixels
        luma = crops.new_tensor([0.299, 0.587, 0.114])[:, None, None]  # ITU-R BT.601 gray
        gray = ((crops + 1) / 2 * luma).sum(1)  # (B, S, S), in [0, 1]
        kernel = _gaussian(self.sigma * unit)
        gray = _filter(_filter(gray, kernel, dim=1), kernel, dim=2)  # (B, S, S)

        # Sobel: [-1 0 1]/2 one way and [1 2 1]/4 the other, in gray levels per pixel.
        gx = _filter(_slope(gray, dim=2), [0.5, 0.25], dim=1)  # (B, S, S)
        gy = _filter(_slope(gray, dim=1), [0.5, 0.25], dim=2)  # (B, S, S)
        strength = torch.hypot(gx, gy) * unit  # (B, S, S), gray levels per 1/64

        thin = strength * _is_ridge(strength, gx, gy)  # (B, S, S)
        weak = thin > self.low  # (B, S, S) bool
        edge = thin > self.high  # (B, S, S) bool
        while True:  # linking: grow the strong edges along weak ones until nothing is added
            grown = F.max_pool2d(edge[:, None].float(), 3, stride=1, padding=1)[:, 0] > 0
            grown &= weak
            if torch.equal(grown, edge):
                break
            edge = grown
        return (edge.to(crops.dtype) * 2 - 1)[:, None].expand(-1, 3, -1, -1).contiguous()


@dataclass(frozen=True)
class SuperPixel:
    """Each pixel takes the mean RGB of its super-pixel, after SLIC (k-means in Lab color and x, y).

    The crop is divided into g x g cells, g = min(grid, S), with one cluster each. In each of
    `iterations` rounds, every pixel joins the nearest of the nine clusters of its own cell and the
    cells around it, then every cluster moves to the mean of its pixels. Where g does not divide S,
    some rows and columns count twice.

    The paper does not say; ours: grid 8, as many super-pixels as Blur(8x8) has cells. compactness
    40: among 10 (SLIC's published default, which hides nothing of a drawing), 20, 40, 80 and 160,
    it leaves about as much of a drawn face as Blur(16x16), which is next to it in Table 1.
    iterations 5: SLIC's 10 bring the result only 2 % closer to the original (rms, on LFW faces). A
    cluster starts at its cell's mean (SLIC: at its middle). Stray fragments are not joined to a
    neighbor (SLIC's last step).
    """

    grid: int = 8
    compactness: float = 40.0
    iterations: int = 5

    @torch.no_grad()  # a fixed transformation: no gradient is needed
    def __call__(self, crops):
        """(B, 3, S, S) -> same, in [-1, 1]."""
        label = self.segment(crops)  # (B, S, S)
        offset = self.grid**2 * torch.arange(len(crops), device=crops.device)[:, None, None]
        label = (label + offset).flatten()  # (B*S*S,), unique across pictures
        rgb = crops.transpose(0, 1)  # (3, B, S, S)
        mean, _ = _means(rgb.flatten(1), label, self.grid**2 * len(crops))  # (3, B * grid^2)
        mean = mean.clamp(-1, 1)  # the clamp only removes rounding errors
        return mean[:, label].view(rgb.shape).transpose(0, 1).contiguous()  # (B, 3, S, S)

    @torch.no_grad()
    def segment(self, crops):
        """The super-pixel of each pixel: (B, 3, S, S) -> (B, S, S) int64 in 0 ... g^2 - 1, in the
        order of the cells, row by row."""
        size = _side(crops)
        g = min(self.grid, size)
        step = math.ceil(size / g)  # side of a cell
        batch = len(crops)
        lab = _rgb_to_lab(crops)  # (B, 3, S, S)
        lab = F.interpolate(lab, g * step, mode="nearest-exact")  # (B, 3, g*step, g*step)

        # Features whose plain squared distance is SLIC's: color^2 + (compactness / step)^2 place^2.
        axis = torch.arange(g * step, device=crops.device, dtype=crops.dtype) + 0.5  # (g*step,)
        axis = axis * (self.compactness / step)
        xy = torch.stack(torch.meshgrid(axis, axis, indexing="xy")).expand(batch, -1, -1, -1)
        features = torch.cat([lab, xy], 1)  # (B, 5, g*step, g*step)
        # Pixels sorted by cell: all pixels of a cell are compared with the same nine clusters.
        cells = features.view(batch, 5, g, step, g, step).permute(1, 0, 2, 4, 3, 5)
        cells = cells.reshape(5, batch * g * g, step * step)  # (5, N, P), N cells of P pixels
        center = cells.mean(2)  # (5, N)

        for _ in range(self.iterations):
            label = _assign(cells, center, g).flatten()  # (N*P,)
            mean, count = _means(cells.flatten(1), label, len(center[0]))  # (5, N), (N,)
            center = torch.where(count > 0, mean, center)  # empty clusters stay
        label = _assign(cells, center, g) % (g * g)  # (N, P), numbered from 0 in each picture
        label = label.view(batch, g, g, step, step).transpose(2, 3)  # (B, g, step, g, step)
        label = label.reshape(batch, 1, g * step, g * step)
        return F.interpolate(label.float(), size, mode="nearest-exact")[:, 0].long()  # (B, S, S)


def _assign(cells, center, g):
    """The nearest of the nine clusters around its cell, for each pixel, by squared distance.

    cells (5, N, P) and center (5, N) of pictures of g x g cells -> (N, P) int64 in 0 ... N - 1. On
    a tie the lowest number wins.
    """
    # Clusters beyond the grid's border are too far away to be chosen.
    around = F.pad(center.view(5, -1, g, g), (1, 1, 1, 1), value=1e6)  # (5, B, g+2, g+2)
    nine = around.unfold(2, 3, 1).unfold(3, 3, 1).reshape(5, -1, 9, 1)  # (5, N, 9, 1)
    # 256 cells at a time (ours): four pictures of 8 x 8 cells fit into a processor's cache.
    parts = zip(cells.split(256, 1), nine.split(256, 1))
    choice = torch.cat([_nearest(*part) for part in parts])  # (N, P)
    own = torch.arange(cells.shape[1], device=cells.device)[:, None]  # (N, 1)
    step = torch.arange(-1, 2, device=cells.device)
    return own + (step[:, None] * g + step).flatten()[choice]  # (N, P)


def _nearest(cells, nine):
    """Which of nine clusters is nearest: cells (5, n, P), nine (5, n, 9, 1) -> (n, P) int64.

    The loop over clusters is over twice as fast as argmin(1) on a CPU.
    """
    distance = cells.new_zeros(len(nine[0]), 9, cells.shape[2])  # (n, 9, P)
    for feature, clusters in zip(cells, nine):  # not by matrix products, which may run in TF32
        gap = feature[:, None] - clusters  # (n, 9, P)
        distance.addcmul_(gap, gap)
    best = distance[:, 0]  # (n, P)
    choice = torch.zeros_like(best, dtype=torch.int64)  # (n, P)
    for j in range(1, 9):
        closer = distance[:, j] < best
        best = torch.minimum(best, distance[:, j])
        choice = torch.where(closer, j, choice)
    return choice


def _means(values, label, clusters):
    """Values (C, P) by label (P,) -> each cluster's mean (C, clusters) and size (clusters,)."""
    total = values.new_zeros(len(values), clusters).index_add_(1, label, values)
    count = torch.bincount(label, minlength=clusters)
    return total / count.clamp(min=1), count


# Names and order of Table 1. Each makes its anonymizer from a seed, which only Noise uses.
BASELINES = {
    "Un-anonymized": lambda seed: identity,
    "Blur(8x8)": lambda seed: Blur(8),
    "Blur(16x16)": lambda seed: Blur(16),
    "Blur(24x24)": lambda seed: Blur(24),
    "Noise(0.1)": lambda seed: Noise(0.1, seed),
    "Noise(0.3)": lambda seed: Noise(0.3, seed),
    "Noise(0.5)": lambda seed: Noise(0.5, seed),
    "Masked": lambda seed: Masked(),
    "Edge": lambda seed: Edge(),
    "Super-Pixel": lambda seed: SuperPixel(),
}


def make_baseline(name, seed=0):
    """The anonymizer that Table 1 calls `name`. Raises ValueError for an unknown name."""
    if name not in BASELINES:
        raise ValueError(f"baseline name {name!r} is unknown: choose one of {', '.join(BASELINES)}")
    return BASELINES[name](seed)


def _side(crops):
    """S of square RGB crops (B, 3, S, S); ValueError otherwise."""
    if crops.ndim != 4 or crops.shape[1] != 3 or crops.shape[2] != crops.shape[3]:
        raise ValueError(f"crops must have shape (B, 3, S, S), got {tuple(crops.shape)}")
    return crops.shape[-1]


def _gaussian(sigma):
    """Half of a Gaussian kernel of sum 1, from its middle to 3 sigma, for `_filter`."""
    half = [math.exp(-0.5 * (k / sigma) ** 2) for k in range(math.ceil(3 * sigma) + 1)]
    total = half[0] + 2 * sum(half[1:])
    return [weight / total for weight in half]


def _filter(x, half, dim):
    """Filter (B, S, S) along dim with the kernel [..., half[1], half[0], half[1], ...].

    A sum of shifted pictures, because a mirrored picture then gives exactly the mirrored result,
    and no other picture of the batch matters; a convolution guarantees neither.
    """
    out = half[0] * x
    for k in range(1, len(half)):
        out = out + half[k] * (_shifted(x, -k, dim) + _shifted(x, k, dim))
    return out


def _slope(x, dim):
    """Central difference (next - previous) / 2 of (B, S, S) along dim; border pixels repeated."""
    return (_shifted(x, 1, dim) - _shifted(x, -1, dim)) / 2


def _shifted(x, by, dim):
    """(B, S, S) moved so that each pixel shows the one `by` further along dim; border repeated."""
    size = x.shape[dim]
    index = torch.arange(by, by + size, device=x.device).clamp(0, size - 1)
    return x.index_select(dim, index)


def _is_ridge(strength, gx, gy):
    """Canny's thinning: the pixels that are the strongest of three along their gradient, rounded
    to 45 degrees. (B, S, S) each -> (B, S, S) bool."""
    tangent = math.tan(math.pi / 8)  # 22.5 degrees: half of the 45 between two directions
    along_x = gy.abs() <= tangent * gx.abs()
    along_y = gx.abs() < tangent * gy.abs()
    padded = F.pad(strength, (1, 1, 1, 1))  # (B, S+2, S+2)
    diagonal = torch.where(gx * gy > 0, _is_strongest(padded, 1, 1), _is_strongest(padded, 1, -1))
    straight = torch.where(along_x, _is_strongest(padded, 0, 1), _is_strongest(padded, 1, 0))
    return torch.where(along_x | along_y, straight, diagonal)


def _is_strongest(padded, dy, dx):
    """The pixels not weaker than those before and after in direction (dy, dx): (B, S, S) bool.

    padded: (B, S+2, S+2). One side is compared with >=, the other with >, so that one of two equal
    neighbors is kept.
    """
    after = padded.roll((-dy, -dx), (1, 2))
    before = padded.roll((dy, dx), (1, 2))
    return ((padded >= after) & (padded > before))[:, 1:-1, 1:-1]


def _rgb_to_lab(crops):
    """sRGB in [-1, 1] to CIE L*a*b* under D65, L in 0 ... 100. (B, 3, S, S) -> same.

    Source: IEC 61966-2-1 and CIE 15.
    """
    srgb = (crops + 1) / 2
    linear = ((srgb + 0.055) / 1.055).clamp(min=0) ** 2.4
    linear = torch.where(srgb > 0.04045, linear, srgb / 12.92)  # (B, 3, S, S)
    to_xyz = crops.new_tensor(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    to_xyz = to_xyz / to_xyz.sum(1, keepdim=True)  # relative to the white point, R = G = B = 1
    xyz = (to_xyz[:, :, None, None] * linear[:, None]).sum(2)  # (B, 3, S, S)
    root = xyz.clamp(min=1e-6) ** (1 / 3)
    f = torch.where(xyz > (6 / 29) ** 3, root, xyz * (29 / 6) ** 2 / 3 + 4 / 29)  # (B, 3, S, S)
    fx, fy, fz = f.unbind(1)  # (B, S, S) each
    return torch.stack([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)], 1)  # (B, 3, S, S)
