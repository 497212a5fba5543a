"""MTCNN: three small networks that find faces and their five landmarks (paper Sec. 4 and 5.1).

The paper uses MTCNN [58: Zhang, Zhang, Li, Qiao, IEEE SPL 2016] twice: as a binary classifier that
removes SSH's false positives, and to find the landmarks by which every face is aligned for D. Each
stage is a larger network and sees fewer windows:

    P-net  12x12  every window of an image pyramid  ->  proposals        (`MTCNN.propose`)
    R-net  24x24  each proposal, resized            ->  fewer, better    (`MTCNN.refine`)
    O-net  48x48  each remaining box, resized       ->  box, score, five landmarks

A stage processes all frames together. Resizing uses an integral image: the sum over any rectangle
takes four look-ups. So a few indexing operations area-average every pyramid level and window,
exactly as `adaptive_avg_pool2d` does.

Pixel numbering. The original is MATLAB code: the first pixel is 1, and a box [x1, x2] includes both
ends. Its rounding, widths (x2 - x1 + 1) and overlaps depend on that. So this file computes with
MATLAB's numbers and returns continuous coordinates (pixel i covers [i, i + 1)).

Settings and layers are the original's. We load the weights of a public PyTorch port
(facenet-pytorch 2.6.0, fetched by `data_scripts/get_weights.py`). Like that port, this code resizes
by area averaging, crops windows at the frame's edge (the original pads with black), and flattens
in the order (x, y, channel), since the networks were trained on transposed pictures.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

STRIDE = 2  # original: P-net's outputs are 2 px apart
CELL = 12  # original: each output sees 12x12 px
FIRST_PIXEL = (1, 1, 0, 0)  # a box in MATLAB's numbering minus the same box in ours
SAME_FACE = 0.3  # ours: IoU above which two boxes are one face
WINDOWS_AT_ONCE = 1024  # ours: limits memory in crowded pictures
BOXES_AT_ONCE = 256  # ours: limits the memory of pairwise overlaps
# Ours, measured: on a CPU four LFW pictures at a time fit the cache: 20 % faster than one, 35 %
# faster than twenty. A GPU is faster with full batches.
PIXELS_AT_ONCE = {"cpu": 300_000, "cuda": 16_000_000}


@dataclass(frozen=True)
class MTCNNConfig:
    min_face: float = 20.0  # original demo, and the public weights' default: smallest face, px
    factor: float = 0.709  # original: scale between pyramid levels, about sqrt(1/2)
    thresholds: tuple = (0.6, 0.7, 0.7)  # original: least face probability after P, R, O
    nms_level: float = 0.5  # original: P-net, within one level
    nms_frame: float = 0.7  # original: P-net across levels, and R-net
    nms_smaller: float = 0.7  # original: O-net, intersection over the smaller box


def conv(channels_in, channels_out, kernel, pool=None):
    """Convolution, PReLU and, if `pool` gives its size, a max pool of stride 2."""
    layers = [nn.Conv2d(channels_in, channels_out, kernel), nn.PReLU(channels_out)]
    if pool:
        layers.append(nn.MaxPool2d(pool, 2, ceil_mode=True))
    return nn.Sequential(*layers)


class Dense(nn.Sequential):
    """Linear layer and PReLU, (N, C, H, W) -> (N, n), on inputs flattened as x, y, channel."""

    def __init__(self, values_in, values_out):
        super().__init__(nn.Linear(values_in, values_out), nn.PReLU(values_out))

    def forward(self, x):
        return super().forward(x.permute(0, 3, 2, 1).flatten(1))


class Stage(nn.Module):
    """One of the networks: layers, then output heads; the first one classifies faces."""

    def __init__(self, *layers, heads):
        super().__init__()
        self.body = nn.Sequential(*layers)
        self.heads = nn.ModuleList(heads)

    def forward(self, x):
        x = self.body(x)
        logits, *outputs = [head(x) for head in self.heads]
        return face_probability(logits), *outputs


class PNet(Stage):
    """Proposal network, fully convolutional; 6,632 parameters.

    (B, 3, H, W) in [-1, 1] -> face probability (B, h, w), shifts (B, 4, h, w).
    """

    def __init__(self):
        super().__init__(
            conv(3, 10, 3, pool=2),
            conv(10, 16, 3),
            conv(16, 32, 3),  # (B, 32, h, w)
            heads=[nn.Conv2d(32, 2, 1), nn.Conv2d(32, 4, 1)],
        )


class RNet(Stage):
    """Refinement network; 100,178 parameters.

    (N, 3, 24, 24) -> face probability (N,), shifts (N, 4).
    """

    def __init__(self):
        super().__init__(
            conv(3, 28, 3, pool=3),  # (N, 28, 11, 11)
            conv(28, 48, 3, pool=3),  # (N, 48, 4, 4)
            conv(48, 64, 2),  # (N, 64, 3, 3)
            Dense(576, 128),
            heads=[nn.Linear(128, 2), nn.Linear(128, 4)],
        )


class ONet(Stage):
    """Output network; 389,040 parameters.

    (N, 3, 48, 48) -> face probability (N,), shifts (N, 4), x1..x5, y1..y5 (N, 10).
    """

    def __init__(self):
        super().__init__(
            conv(3, 32, 3, pool=3),  # (N, 32, 23, 23)
            conv(32, 64, 3, pool=3),  # (N, 64, 10, 10)
            conv(64, 64, 3, pool=2),  # (N, 64, 4, 4)
            conv(64, 128, 2),  # (N, 128, 3, 3)
            Dense(1152, 256),
            heads=[nn.Linear(256, 2), nn.Linear(256, 4), nn.Linear(256, 10)],
        )


def face_probability(logits):
    """The second class's softmax probability: (N, 2, ...) -> (N, ...)."""
    return torch.sigmoid(logits[:, 1] - logits[:, 0])


# ---------------------------------------------------------------- area averaging by running sums


def sum_table(frames):
    """Running sums: entry (y, x) is the sum of all pixels above and to the left.

    frames: (B, H, W, 3) uint8. Returns (B, H+1, W+1, 3) int32. Sums beyond 2^31 wrap around, but
    differences are right for rectangles whose own sum fits (8 million pixels).
    """
    table = F.pad(frames.cumsum(2, dtype=torch.int32), (0, 0, 1, 0, 1, 0))  # (B, H+1, W+1, 3)
    if table.device.type != "cpu":
        return table.cumsum(1, dtype=torch.int32)
    rows = table.unbind(1)
    for above, row in zip(rows, rows[1:]):  # four times as fast as `cumsum` in HD
        row += above
    return table


def bins(length, n, device=None):
    """Start and end (exclusive) of n area bins: floor(i L / n) and ceil((i + 1) L / n), L = length.

    length: int, or an integer tensor (N, 1). Returns two integer tensors (n,) or (N, n).
    """
    step = torch.arange(n, device=device)
    return step * length // n, ((step + 1) * length + n - 1) // n


def resize_frames(table, height, width):
    """Whole frames of a sum table, area-averaged: (B, 3, height, width), (mean - 127.5) / 128."""
    top, bottom = bins(table.shape[1] - 1, height, table.device)
    left, right = bins(table.shape[2] - 1, width, table.device)
    sums = table.index_select(1, bottom).sub_(table.index_select(1, top))  # (B, height, W+1, 3)
    sums = sums.index_select(2, right).sub_(sums.index_select(2, left))  # (B, height, width, 3)
    area = ((bottom - top)[:, None] * (right - left))[..., None]  # (height, width, 1)
    means = (sums / area).sub_(127.5).div_(128)
    return means.permute(0, 3, 1, 2)  # (B, 3, height, width)


def resize_windows(table, frame, boxes, size):
    """Windows of a sum table, each area-averaged to size x size.

    frame: (N,), each window's frame. boxes: (N, 4) in MATLAB numbering, cropped to the frame.
    Returns (N, 3, size, size), (mean - 127.5) / 128.
    """
    height = table.shape[1] - 1
    width = table.shape[2] - 1
    x1, y1, x2, y2 = boxes.trunc().long()[:, :, None].unbind(1)  # (N, 1) each
    x1 = x1.clamp(1, width) - 1
    y1 = y1.clamp(1, height) - 1
    left, right = bins((x2.clamp(max=width) - x1).clamp(min=1), size, table.device)
    top, bottom = bins((y2.clamp(max=height) - y1).clamp(min=1), size, table.device)
    y = torch.cat([top, bottom], 1) + y1  # (N, 2 size)
    x = torch.cat([left, right], 1) + x1  # (N, 2 size)
    row = (frame[:, None] * table.shape[1] + y) * table.shape[2]
    index = row[:, :, None] + x[:, None, :]  # (N, 2 size, 2 size)
    corners = table.flatten(0, 2).index_select(0, index.flatten()).view(*index.shape, 3)
    below = corners[:, size:] - corners[:, :size]  # (N, size, 2 size, 3)
    sums = below[:, :, size:] - below[:, :, :size]  # (N, size, size, 3)
    area = (bottom - top)[:, :, None] * (right - left)[:, None, :]  # (N, size, size)
    means = (sums / area[..., None] - 127.5) / 128
    return means.permute(0, 3, 1, 2)  # (N, 3, size, size)


# ---------------------------------------------------------------- boxes


def squared(boxes):
    """Squares with the longer side and the center of the boxes (N, 4)."""
    size = boxes[:, 2:] - boxes[:, :2]
    side = size.amax(1, keepdim=True)
    corner = boxes[:, :2] + size / 2 - side / 2
    return torch.cat([corner, corner + side], 1)


def corrected(boxes, shift):
    """Boxes (N, 4) in MATLAB numbering, moved by shifts (N, 4) in widths and heights."""
    size = boxes[:, 2:] - boxes[:, :2] + 1
    return boxes + shift * size.repeat(1, 2)


def around(frames, squares):
    """The part of frames (B, H, W, 3) with the squares (N, 4) and one side's length around them.

    Returns this part, at least one pixel, and its top left corner x, y (2,), whole px.
    """
    size = torch.tensor([frames.shape[2], frames.shape[1]], device=frames.device)
    side = squares[:, 2:] - squares[:, :2]  # (N, 2)
    low = torch.cat([squares[:, :2] - side, size[None] - 1.0]).amin(0).long().clamp(min=0)  # (2,)
    high = torch.cat([squares[:, 2:] + side, low[None] + 1.0]).amax(0).ceil().long()
    (x0, y0), (x1, y1) = low.tolist(), high.tolist()
    return frames[:, y0:y1, x0:x1], low.to(squares)


def overlap(first, second, smaller=False):
    """Intersection over union, or over the smaller box, of boxes (n, 4) and (k, 4): (n, k)."""
    low = torch.maximum(first[:, None, :2], second[:, :2])  # (n, k, 2)
    high = torch.minimum(first[:, None, 2:], second[:, 2:])
    shared = (high - low).clamp(min=0).prod(2)  # (n, k)
    area = (first[:, 2:] - first[:, :2]).prod(1)[:, None]  # (n, 1)
    area2 = (second[:, 2:] - second[:, :2]).prod(1)  # (k,)
    return shared / (torch.minimum(area, area2) if smaller else area + area2 - shared)


def is_new(boxes, known):
    """Whether each of the boxes (k, 4) shows a face not among the known (n, 4): (k,) bool."""
    return ~(overlap(boxes, known) > SAME_FACE).any(1)


def joined(boxes, more):
    """The boxes (k, 4), followed by those of `more` (n, 4) that show other faces."""
    return torch.cat([boxes, more[is_new(more, boxes)]])


def nms(boxes, scores, threshold, group=None, smaller=False):
    """Non-maximum suppression: the indices kept of boxes (N, 4) with scores (N,), best first.

    A box is removed if a kept box of its group with a higher score overlaps it by more than
    `threshold`. group: (N,) integers; None: one group. smaller: as in `overlap`; it also removes a
    small face inside a large one (the original uses it for O-net). Not torchvision's `batched_nms`:
    importing that package takes two seconds, longer than finding a short movie's faces.
    """
    order = scores.argsort(descending=True, stable=True)
    boxes = boxes[order]
    group = torch.zeros_like(order) if group is None else group[order]

    def conflict(first, second):  # (n, k), indices into the sorted boxes
        same_group = group[first, None] == group[second]
        return same_group & (overlap(boxes[first], boxes[second], smaller) > threshold)

    kept = order[:0]  # indices into the sorted boxes
    for part in torch.arange(len(order), device=order.device).split(BOXES_AT_ONCE):
        part = part[~conflict(part, kept).any(1)]
        removes = conflict(part, part).triu(1)  # a row's box removes a column's
        alive = torch.ones_like(part, dtype=torch.bool)
        previous = None
        while previous is None or not torch.equal(alive, previous):
            previous = alive
            alive = ~(removes & previous[:, None]).any(0)
        kept = torch.cat([kept, part[alive]])
    return order[kept]


class MTCNN(nn.Module):
    """The cascade. `MTCNN.load` loads weights; `MTCNN(config)` has random ones."""

    def __init__(self, config=MTCNNConfig()):
        super().__init__()
        if not 12 <= config.min_face < float("inf"):
            raise ValueError(f"min_face is {config.min_face}; P-net sees 12 px, so give 12 or more")
        if not 0 < config.factor < 1:
            raise ValueError(f"factor is {config.factor}; levels shrink by it: 0 < factor < 1")
        self.config = config
        self.pnet = PNet().to(memory_format=torch.channels_last)  # a quarter faster
        self.rnet = RNet()
        self.onet = ONet()
        self.eval().requires_grad_(False)

    @property
    def device(self):
        return next(self.parameters()).device

    @classmethod
    def load(cls, folder=None, config=MTCNNConfig()):
        """Load pnet.pt, rnet.pt and onet.pt from `folder` (default: `weights_folder()`).

        Raises ValueError if one of them is missing or damaged.
        """
        model = cls(config)
        folder = Path(folder or weights_folder())
        for name in ("pnet", "rnet", "onet"):
            path = folder / f"{name}.pt"
            network = getattr(model, name)
            try:  # matched by order: the port names them differently
                weights = torch.load(path, map_location="cpu", weights_only=True).values()
                network.load_state_dict(dict(zip(network.state_dict(), weights, strict=True)))
            except Exception as error:  # torch.load raises many types
                fix = f"run: python data_scripts/get_weights.py --out {folder}"
                fault = f"no MTCNN weights at {path}, or they are damaged"
                raise ValueError(f"{fault}; {fix}") from error
        return model

    @torch.inference_mode()
    def find(self, frames, min_face=None):
        """Find all faces in frames of one size.

        frames: (B, H, W, 3) uint8 RGB, tensor or array. min_face: the smallest face to find, px;
        None: the config's. Returns a list of B dicts, best face first: boxes (k, 4) xyxy px, which
        may reach over the frame's edge; O-net's scores (k,), above its threshold; landmarks
        (k, 5, 2) px. Raises ValueError for frames of another shape or type.
        """
        detections = []
        for part in in_batches(frames, PIXELS_AT_ONCE, self.device):
            table = sum_table(part)  # (B, H+1, W+1, 3)
            frame, squares = self.refine(table, *self.propose(table, min_face))
            score, boxes, landmarks = self.output(table, frame, squares)
            faces = {"boxes": boxes, "scores": score, "landmarks": landmarks}
            keep = (score > self.config.thresholds[2]).nonzero()[:, 0]
            overlap_limit = self.config.nms_smaller
            keep = keep[nms(boxes[keep], score[keep], overlap_limit, frame[keep], smaller=True)]
            detections += [chosen(faces, keep[frame[keep] == i]) for i in range(len(part))]
        return detections

    @torch.inference_mode()
    def confirm(self, frames, boxes):
        """MTCNN as a binary classifier of given boxes (paper Sec. 4): face or not?

        R-net and O-net see the square around each box. P-net is not needed: the box is a proposal.
        For speed, only the frames' part around the boxes is processed.

        frames: as in `find`. boxes: list of B tensors (k, 4), xyxy px. Returns a list of B dicts in
        the order of the boxes: face (k,) bool, true if both R-net's and O-net's scores exceed their
        thresholds; O-net's scores (k,) in [0, 1], boxes (k, 4) and landmarks (k, 5, 2) px.
        Raises ValueError as `find` does, or if the numbers of lists and frames differ.
        """
        frames = checked(frames, self.device)
        if len(boxes) != len(frames):
            got = f"{len(boxes)} lists for {len(frames)} frames"
            raise ValueError(f"boxes: {got}; give one (k, 4) tensor a frame")
        boxes = [torch.as_tensor(own).to(frames.device).float().reshape(-1, 4) for own in boxes]
        counts = torch.tensor(list(map(len, boxes)))  # (B,)
        frame = torch.repeat_interleave(counts).to(frames.device)  # (N,)
        squares = squared(torch.cat(boxes))  # (N, 4)
        part, offset = around(frames, squares)
        table = sum_table(part)
        squares = squares - offset.repeat(2) + squares.new_tensor(FIRST_PIXEL)
        first_score, shift = self._in_parts(self.rnet, table, frame, squares, 24)
        score, boxes, points = self.output(table, frame, squared(corrected(squares, shift)))
        faces = {
            "face": (first_score > self.config.thresholds[1]) & (score > self.config.thresholds[2]),
            "scores": score,
            "boxes": boxes + offset.repeat(2),
            "landmarks": points + offset,
        }
        return [chosen(faces, (frame == i).nonzero()[:, 0]) for i in range(len(frames))]

    def propose(self, table, min_face=None):
        """P-net over the pyramid: frame (N,), square boxes (N, 4) in MATLAB numbering."""
        height = table.shape[1] - 1
        width = table.shape[2] - 1
        scale = CELL / (min_face or self.config.min_face)
        levels = []
        while min(height, width) * scale >= CELL:
            level = resize_frames(table, int(height * scale + 1), int(width * scale + 1))
            prob, shift = self.pnet(level)  # (B, h, w), (B, 4, h, w)
            frame, row, col = (prob >= self.config.thresholds[0]).nonzero(as_tuple=True)
            cell = torch.stack([col, row], 1) * STRIDE  # (n, 2)
            boxes = torch.cat([((cell + 1) / scale).floor(), ((cell + CELL) / scale).floor()], 1)
            number = torch.full_like(frame, len(levels))
            levels.append((frame, boxes, prob[frame, row, col], shift[frame, :, row, col], number))
            scale *= self.config.factor
        if not levels:  # the frame is smaller than the smallest face
            return table.new_zeros(0, dtype=torch.long), table.new_zeros(0, 4, dtype=torch.float)
        frame, boxes, prob, shift, number = (torch.cat(parts) for parts in zip(*levels))
        keep = nms(boxes, prob, self.config.nms_level, frame * len(levels) + number)
        keep = keep[nms(boxes[keep], prob[keep], self.config.nms_frame, frame[keep])]
        boxes = boxes[keep]
        size = boxes[:, 2:] - boxes[:, :2]  # the original adds no 1 here
        return frame[keep], squared(boxes + shift[keep] * size.repeat(1, 2))

    def refine(self, table, frame, boxes):
        """R-net on P-net's squares: frame (n,), square boxes (n, 4) of the accepted ones."""
        prob, shift = self._in_parts(self.rnet, table, frame, boxes, 24)
        keep = (prob > self.config.thresholds[1]).nonzero()[:, 0]
        keep = keep[nms(boxes[keep], prob[keep], self.config.nms_frame, frame[keep])]
        return frame[keep], squared(corrected(boxes[keep], shift[keep]))

    def output(self, table, frame, squares):
        """O-net on R-net's squares: scores (N,), boxes (N, 4) and landmarks (N, 5, 2) in px."""
        score, shift, points = self._in_parts(self.onet, table, frame, squares, 48)
        first_pixel = squares.new_tensor(FIRST_PIXEL)
        points = points.view(-1, 2, 5).transpose(1, 2)  # (N, 5, 2), relative to the square
        size = squares[:, None, 2:] - squares[:, None, :2] + 1
        landmarks = squares[:, None, :2] - 1 + size * points
        return score, corrected(squares, shift) - first_pixel, landmarks

    def _in_parts(self, net, table, frame, boxes, size):
        """A network's outputs for all windows, computed WINDOWS_AT_ONCE at a time."""
        parts = zip(frame.split(WINDOWS_AT_ONCE), boxes.split(WINDOWS_AT_ONCE))
        outputs = [net(resize_windows(table, *part, size)) for part in parts]
        return tuple(torch.cat(values) for values in zip(*outputs))


def chosen(faces, which):
    """The faces of a dict of tensors that `which`, a mask or indices, selects."""
    return {name: values[which] for name, values in faces.items()}


def in_batches(frames, pixels_at_once, device):
    """`checked` frames in batches of <= `pixels_at_once[device type]` pixels, or one frame."""
    frames = checked(frames, device)
    budget = pixels_at_once.get(frames.device.type, pixels_at_once["cpu"])
    return frames.split(max(1, budget // (frames.shape[1] * frames.shape[2])))


def checked(frames, device="cpu"):
    """Frames, tensor or array (B, H, W, 3) uint8, as a tensor on the device; else ValueError."""
    frames = frames if torch.is_tensor(frames) else np.array(frames)
    usable = str(frames.dtype).endswith("uint8") and frames.shape[3:] == (3,)
    if not usable or 0 in frames.shape[1:3]:
        got = f"{tuple(frames.shape)} {frames.dtype}"
        raise ValueError(f"frames are {got}; give (B, H, W, 3) uint8 RGB, of one size above 0")
    return torch.as_tensor(frames).to(device)


def weights_folder():
    """The folder of downloaded weights: $PPAD_WEIGHTS, or ~/.cache/ppad/weights."""
    return Path(os.environ.get("PPAD_WEIGHTS") or Path.home() / ".cache" / "ppad" / "weights")
