"""The hand-made anonymizers the paper compares itself with.

Paper: Sec. 5.2 and Fig. 3, the rows of Table 1. Each baseline is an anonymizer like M: a callable from face crops
(B, 3, S, S), RGB in [-1, 1], to the same shape and range, on whatever device the crops are. They work on the same
1.6x enlarged face box as M does. None of them learns anything, and none looks at more than one picture at a time.

The paper leaves open how each is made; what we chose, and why, stands beside each constant.
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

    Down by area mean, so that nothing of the finer detail survives as aliasing; up bilinear (both ours).
    """

    cells: int

    def __call__(self, crops):
        """(B, 3, S, S) -> same, in [-1, 1]. Raises ValueError if S < cells: that would blur nothing."""
        size = _side(crops, least=self.cells)
        small = F.interpolate(
            crops, size=(self.cells, self.cells), mode="area"
        )  # (B, 3, cells, cells)
        return F.interpolate(
            small, size=(size, size), mode="bilinear", align_corners=False
        )  # (B, 3, S, S)


class Noise:
    """Additive Gaussian noise of the given variance (0.1, 0.3 and 0.5 in the paper), clipped to the image range.

    The variance counts in pictures that run from 0 to 1 (open in the paper; ours: the habit of the image libraries
    that take a variance rather than a standard deviation). In [-1, 1] the standard deviation is then 2 sqrt(variance).

    Each call draws fresh noise, fixed by (seed, number of earlier calls). That number is all the state there is:
    store `state_dict()` and give it back to `load_state_dict()` to go on where a run stopped. The numbers differ
    between kinds of device, because torch's generators do.
    """

    def __init__(self, variance, seed=0):
        if not variance > 0:
            raise ValueError(
                f"variance must be greater than 0, got {variance}: use identity for no noise"
            )
        self.variance = variance
        self.seed = seed
        self.calls = 0

    def __call__(self, crops):
        """(B, 3, S, S) -> same, in [-1, 1]. Raises ValueError for anything but square RGB crops."""
        _side(crops)
        generator = torch.Generator(crops.device)
        generator.manual_seed(
            self.seed * 1_000_003 + self.calls
        )  # a prime (ours) keeps seeds' calls apart
        self.calls += 1
        draw = torch.randn(
            crops.shape, generator=generator, device=crops.device, dtype=crops.dtype
        )  # (B, 3, S, S)
        return (crops + 2 * math.sqrt(self.variance) * draw).clamp(-1, 1)

    def state_dict(self):
        """{"calls": number of calls so far}."""
        return {"calls": self.calls}

    def load_state_dict(self, state):
        """Go on after `state["calls"]` calls. Raises KeyError if it is not a state of this class."""
        self.calls = int(state["calls"])


@dataclass(frozen=True)
class Masked:
    """The whole face box in one colour: black (open in the paper; ours)."""

    value: float = -1.0

    def __call__(self, crops):
        """(B, 3, S, S) -> same, every pixel `value`. Raises ValueError for anything but square RGB crops."""
        _side(crops)
        return torch.full_like(crops, self.value)


@dataclass(frozen=True)
class Edge:
    """The crop's edge map, white on black, after Canny: smooth, differentiate, thin, link.

    Parameters are open in the paper; all three are ours, set by eye on LFW faces so that the outline, brows, eyes and
    mouth are drawn and skin is not. They count in 1/64 of the crop's side, so that a face gets the same drawing at
    any S: sigma is the smoothing, low and high the thresholds in grey levels (0 to 1) per 1/64.
    """

    sigma: float = 1.0
    low: float = 0.025
    high: float = 0.05

    @torch.no_grad()  # an edge map is piecewise constant: its gradient is 0 wherever it exists
    def __call__(self, crops):
        """(B, 3, S, S) -> same, -1 or +1. Raises ValueError unless the crops are square RGB."""
        unit = _side(crops) / 64  # pixels
        luma = crops.new_tensor([0.299, 0.587, 0.114])[:, None, None]  # ITU-R BT.601 grey
        grey = ((crops + 1) / 2 * luma).sum(1)  # (B, S, S) in [0, 1]
        sigma = self.sigma * unit
        bell = [
            math.exp(-0.5 * (k / sigma) ** 2) for k in range(math.ceil(3 * sigma) + 1)
        ]  # cut at 3 sigma
        total = bell[0] + 2 * sum(bell[1:])
        bell = [weight / total for weight in bell]
        grey = _filter(_filter(grey, bell, dim=1), bell, dim=2)  # (B, S, S)

        # Sobel: [-1 0 1]/2 one way and [1 2 1]/4 the other, which reads as grey levels per pixel.
        gx = _filter(_slope(grey, dim=2), [0.5, 0.25], dim=1)  # (B, S, S)
        gy = _filter(_slope(grey, dim=1), [0.5, 0.25], dim=2)  # (B, S, S)
        strength = torch.hypot(gx, gy) * unit  # (B, S, S) grey levels per 1/64

        thin = strength * _is_ridge(strength, gx, gy)  # (B, S, S)
        weak, edge = thin > self.low, thin > self.high  # (B, S, S) bool
        while True:  # linking: grow the strong edges along weak ones until nothing is added
            grown = _dilate(edge) & weak
            if torch.equal(grown, edge):
                break
            edge = grown
        return (
            (edge.to(crops.dtype) * 2 - 1)[:, None].expand(-1, 3, -1, -1).contiguous()
        )  # (B, 3, S, S)


@dataclass(frozen=True)
class SuperPixel:
    """Each pixel takes the mean RGB of its super-pixel; the super-pixels are SLIC's (k-means in Lab colour and x, y).

    A grid of grid x grid clusters is moved for `iterations` rounds: each pixel joins the nearest of the nine clusters
    around its own grid cell, each cluster moves to the mean of its pixels.

    grid 8 (open in the paper; ours): 64 super-pixels are as many as Blur(8x8) has cells, so the two differ only in
    whether the cells follow the picture's outlines. compactness 40 (open too; ours): Table 1 has Super-Pixel (46.9)
    above Blur(8x8) (42.4) and below Blur(16x16) (48.1), and of 10 (SLIC's published default), 20, 40, 80 and 160, 40 comes
    nearest to Blur(16x16) in what it leaves of a drawn face; at 10 the cells follow every line of a drawing and hide
    nothing. Of SLIC's 10 rounds 5 are enough (ours: on LFW faces the other 5 brought the result only 2 % closer to the
    original, in rms). SLIC's last step, which gives stray fragments to a neighbour, is left out: a fragment is at most one
    cell away from its cluster's own cell.
    """

    grid: int = 8
    compactness: float = 40.0
    iterations: int = 5

    @torch.no_grad()  # used as a fixed transformation: nothing trains through it
    def __call__(self, crops):
        """(B, 3, S, S) -> same, in [-1, 1]. Raises ValueError unless S is a multiple of grid."""
        label = self.segment(crops)  # (B, S, S)
        rgb = crops.flatten(2)  # (B, 3, S*S)
        label = label.flatten(1)[:, None].expand_as(rgb)  # (B, 3, S*S)
        total = rgb.new_zeros(len(rgb), 3, self.grid**2).scatter_add(
            2, label, rgb
        )  # (B, 3, grid^2)
        count = torch.zeros_like(total).scatter_add(
            2, label, torch.ones_like(rgb)
        )  # (B, 3, grid^2)
        mean = (total / count.clamp(min=1)).clamp(-1, 1)  # the clamp only takes off rounding
        return mean.gather(2, label).view_as(crops)  # (B, 3, S, S)

    @torch.no_grad()
    def segment(self, crops):
        """The super-pixel of each pixel: (B, 3, S, S) -> (B, S, S) long in 0 ... grid^2 - 1 (row-major cells).

        Raises ValueError unless S is a multiple of grid.
        """
        size, g = _side(crops, least=self.grid), self.grid
        if size % g:
            raise ValueError(
                f"crops are {size} pixels wide, not a multiple of {g}: crop at such a size"
            )
        step = size // g
        batch = len(crops)

        # Features scaled so that SLIC's distance (colour^2 + (compactness / step)^2 space^2) is plain Euclidean.
        axis = (torch.arange(size, device=crops.device, dtype=crops.dtype) + 0.5) * (
            self.compactness / step
        )  # (S,)
        xy = torch.stack(torch.meshgrid(axis, axis, indexing="xy"))  # (2, S, S)
        features = torch.cat([_rgb_to_lab(crops), xy.expand(batch, -1, -1, -1)], 1)  # (B, 5, S, S)
        # Pixels sorted by grid cell, so that every pixel of a cell is compared with the same nine clusters.
        cells = features.view(batch, 5, g, step, g, step).permute(
            1, 0, 2, 4, 3, 5
        )  # (5, B, g, g, step, step)
        # A cluster starts in its cell's middle, with the colour of the one or two middle rows and columns.
        near = slice((step - 1) // 2, step // 2 + 1)
        centre = cells[..., near, near].mean((4, 5)).transpose(0, 1)  # (B, 5, g, g)
        cells = cells.reshape(
            5, batch * g * g, step * step
        )  # (5, N, P): N cells of P = step^2 pixels

        for _ in range(self.iterations):
            label = self._assign(cells, centre)  # (N, P)
            centre = self._means(cells, label, centre)  # (B, 5, g, g)
        label = self._assign(cells, centre) % (g * g)  # (N, P) counted anew in each picture
        return (
            label.view(batch, g, g, step, step).transpose(2, 3).reshape(batch, size, size)
        )  # from cells to a picture

    def _assign(self, cells, centre):
        """Which of the nine clusters around its cell is nearest to each pixel, by squared distance.

        cells (5, N, P), centre (B, 5, g, g) -> (N, P) long in 0 ... N - 1: picture by picture, row by row. On a tie the
        lowest number wins. Differences are squared one feature at a time, not multiplied out: exact, and in any
        precision the trainer may have chosen for matrix products.
        """
        around = F.pad(
            centre, (1, 1, 1, 1), value=1e6
        )  # (B, 5, g+2, g+2) beyond the grid: too far to be chosen
        other = F.unfold(around, 3).unflatten(1, (5, 9))  # (B, 5, 9, g*g)
        other = other.permute(1, 0, 3, 2).reshape(5, cells.shape[1], 9, 1)  # (5, N, 9, 1)
        # 256 cells at a time (ours): four pictures of 8 x 8 cells, whose distances still fit into a processor's cache.
        choice = torch.cat(
            [self._nearest(*part) for part in zip(cells.split(256, 1), other.split(256, 1))]
        )  # (N, P)
        own = torch.arange(cells.shape[1], device=cells.device)[
            :, None
        ]  # (N, 1) the cluster that began in this cell
        step = torch.arange(-1, 2, device=cells.device)
        return own + (step[:, None] * self.grid + step).flatten()[choice.long()]  # (N, P)

    def _nearest(self, cells, other):
        """Which of nine is nearest: cells (5, n, P), other (5, n, 9, 1) -> (n, P) uint8, 3 (dy + 1) + (dx + 1)."""
        distance = (cells[0][:, None] - other[0]).square_()  # (n, 9, P)
        gap = torch.empty_like(distance)  # (n, 9, P) one buffer for all features
        for f in range(1, 5):
            torch.sub(cells[f][:, None], other[f], out=gap)
            distance.addcmul_(gap, gap)
        best = distance[:, 0].clone()  # (n, P)
        choice = torch.zeros_like(best, dtype=torch.uint8)  # (n, P)
        for j in range(
            1, 9
        ):  # more than twice as quick as min(1), which walks through memory in strides
            closer = distance[:, j] < best
            choice = torch.maximum(
                choice, closer.to(torch.uint8) * j
            )  # a later winner is a larger j
            torch.minimum(best, distance[:, j], out=best)
        return choice

    def _means(self, cells, label, centre):
        """Each cluster moves to the mean of its pixels; one without pixels stays. Shapes as above -> (B, 5, g, g)."""
        label, rows = label.flatten(), cells.flatten(1)  # (N*P,), (5, N*P)
        total = rows.new_zeros(5, cells.shape[1]).scatter_add_(
            1, label.expand(5, -1), rows
        )  # (5, N)
        count = rows.new_zeros(cells.shape[1]).scatter_add_(
            0, label, torch.ones_like(rows[0])
        )  # (N,)
        moved = total / count.clamp(min=1)  # (5, N)
        moved = torch.where(count > 0, moved, centre.transpose(0, 1).reshape(total.shape))  # (5, N)
        return moved.view(5, len(centre), *centre.shape[2:]).transpose(0, 1)  # (B, 5, g, g)


# The paper's order and printed names (Table 1). Each entry makes the anonymizer from a seed (only Noise uses it).
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
    """The anonymizer that Table 1 calls `name`. Raises ValueError, listing the names, for any other."""
    if name not in BASELINES:
        raise ValueError(f"baseline name {name!r} is unknown: choose one of {', '.join(BASELINES)}")
    return BASELINES[name](seed)


def _side(crops, least=1):
    """S of square RGB crops (B, 3, S, S); ValueError otherwise or if S < least."""
    if crops.ndim != 4 or crops.shape[1] != 3 or crops.shape[2] != crops.shape[3]:
        raise ValueError(
            f"crops must have shape (B, 3, S, S), got {tuple(crops.shape)}: crop faces to squares first"
        )
    if crops.shape[-1] < least:
        raise ValueError(
            f"crops are {crops.shape[-1]} pixels wide, fewer than {least}: crop at a larger size"
        )
    return crops.shape[-1]


def _filter(x, half, dim):
    """Filter (B, S, S) along dim with the symmetric kernel [..., half[1], half[0], half[1], ...]; the rim repeats.

    Written as sums of shifted pictures: the two sides enter alike, so a mirrored picture gives the mirrored result to
    the last bit, and a picture's result does not depend on its neighbours in the batch. A convolution promises neither.
    """
    n, radius = x.shape[dim], len(half) - 1
    padded = _repeat_rim(x, radius, dim)
    out = half[0] * x
    for k in range(1, radius + 1):
        out = out + half[k] * (
            padded.narrow(dim, radius - k, n) + padded.narrow(dim, radius + k, n)
        )
    return out


def _slope(x, dim):
    """Central difference (next - previous) / 2 of (B, S, S) along dim; the rim repeats."""
    padded, n = _repeat_rim(x, 1, dim), x.shape[dim]
    return (padded.narrow(dim, 2, n) - padded.narrow(dim, 0, n)) / 2


def _repeat_rim(x, radius, dim):
    """(B, S, S) with its first and last line along dim repeated radius times."""
    width = (radius, radius, 0, 0) if dim == 2 else (0, 0, radius, radius)
    return F.pad(x[:, None], width, mode="replicate")[:, 0]


def _dilate(mask):
    """Every pixel of (B, S, S) bool that has a True among itself and its eight neighbours."""
    for dim in (1, 2):
        n = mask.shape[dim]
        padded = F.pad(mask, (1, 1, 0, 0) if dim == 2 else (0, 0, 1, 1))
        mask = mask | padded.narrow(dim, 0, n) | padded.narrow(dim, 2, n)
    return mask


def _is_ridge(strength, gx, gy):
    """Canny's thinning: is a pixel the strongest of the three along its gradient, rounded to 45 degrees? (B, S, S).

    One side is compared with >=, the other with >, so that of two equal neighbours across a step exactly one stays.
    """
    size = strength.shape[-1]
    padded = F.pad(strength, (1, 1, 1, 1))  # (B, S+2, S+2)

    def ridge(dy, dx):
        after = padded[:, 1 + dy : 1 + dy + size, 1 + dx : 1 + dx + size]  # (B, S, S)
        before = padded[:, 1 - dy : 1 - dy + size, 1 - dx : 1 - dx + size]  # (B, S, S)
        return (strength >= after) & (strength > before)

    tangent = math.tan(math.pi / 8)  # 22.5 degrees: half of the 45 between two directions
    across = gy.abs() <= tangent * gx.abs()  # gradient along x
    down = gx.abs() < tangent * gy.abs()  # gradient along y
    diagonal = torch.where(gx * gy > 0, ridge(1, 1), ridge(1, -1))
    return torch.where(across, ridge(0, 1), torch.where(down, ridge(1, 0), diagonal))


def _rgb_to_lab(crops):
    """sRGB in [-1, 1], (B, 3, S, S), to CIE L*a*b* under D65 (IEC 61966-2-1 and CIE 15), L in 0 ... 100."""
    srgb = (crops + 1) / 2
    linear = torch.where(
        srgb > 0.04045, ((srgb + 0.055) / 1.055).clamp(min=0) ** 2.4, srgb / 12.92
    )  # (B, 3, S, S)
    to_xyz = crops.new_tensor(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    to_xyz = to_xyz / to_xyz.sum(
        1, keepdim=True
    )  # relative to the white point, which is R = G = B = 1
    r, g, b = linear[:, None].unbind(2)  # (B, 1, S, S) each
    xyz = (
        to_xyz[:, 0, None, None] * r + to_xyz[:, 1, None, None] * g + to_xyz[:, 2, None, None] * b
    )  # (B, 3, S, S)
    f = torch.where(
        xyz > (6 / 29) ** 3, xyz.clamp(min=1e-6) ** (1 / 3), xyz * (29 / 6) ** 2 / 3 + 4 / 29
    )
    fx, fy, fz = f.unbind(1)  # (B, S, S) each
    return torch.stack([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)], 1)  # (B, 3, S, S)
