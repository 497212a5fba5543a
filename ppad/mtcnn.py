"""MTCNN: three small networks that find faces and their five landmarks (paper Sec. 4, "Face Detection", and 5.1).

The paper uses MTCNN [58: Zhang, Zhang, Li, Qiao, IEEE SPL 2016] twice: as a binary classifier that throws out
SSH's false faces, and to find the key points by which every face is aligned for D. Each stage looks at fewer
windows with a larger network:

    P-net  12x12  every window of an image pyramid  ->  proposals        (`MTCNN.propose`)
    R-net  24x24  each proposal, resized            ->  fewer, better    (`MTCNN.refine`)
    O-net  48x48  each survivor, resized            ->  box, score, five landmarks

Everything is batched: one pass of P-net per pyramid level for all frames, one of R-net and O-net for all
windows of all frames. What makes this quick is a table of running sums (an "integral image"): the mean colour
of *any* rectangle is four look-ups, so every pyramid level and every window is resized by area averaging in
a few indexing operations, exactly as `adaptive_avg_pool2d` would do one by one.

Pixel numbering. The original was written for MATLAB: pixel 1 is the first, and a box [x1, x2] includes both
ends. The rounding, the widths (x2 - x1 + 1) and the overlaps below depend on it, so boxes keep that numbering
inside and become this package's continuous coordinates (pixel i covers [i, i+1)) on the way out.

Where the sources differ. Settings and layers are those of the original. As in the public PyTorch port whose
weights we load (`facenet-pytorch==2.6.0`, fetched by `data_scripts/get_weights.py`): windows are resized by area
averaging; the part of a window outside the frame is cut off, where the original fills it with black; dense layers
read their input in the order (x, y, channel), the mark of networks trained on transposed pictures.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import batched_nms

STRIDE, CELL = 2, 12  # original: P-net's outputs are 2 px apart and each sees 12x12 px
WINDOWS_AT_ONCE = 1024  # ours: bounds memory when a crowd gives thousands of windows
PIXELS_AT_ONCE = {
    "cpu": 300_000,
    "cuda": 16_000_000,
}  # ours, measured: on a CPU four LFW pictures at a time stay
# in the cache (+20 % over one, +35 % over twenty); a GPU wants full batches


@dataclass(frozen=True)
class MTCNNConfig:
    min_face: float = 20.0  # original demo, and the public weights' default: smallest face, px
    factor: float = 0.709  # original: one pyramid level to the next, about sqrt(1/2)
    thresholds: tuple = (0.6, 0.7, 0.7)  # original: least face probability after P, R, O
    nms_level: float = 0.5  # original: P-net, within one level
    nms_frame: float = 0.7  # original: P-net across levels, and R-net
    nms_smaller: float = 0.7  # original: O-net, intersection over the smaller box


class PNet(nn.Module):
    """Proposal network, fully convolutional; 6,632 parameters."""

    def __init__(self):
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 10, 3), nn.PReLU(10)
        self.conv2, self.prelu2 = nn.Conv2d(10, 16, 3), nn.PReLU(16)
        self.conv3, self.prelu3 = nn.Conv2d(16, 32, 3), nn.PReLU(32)
        self.conv4_1 = nn.Conv2d(32, 2, 1)  # not face, face
        self.conv4_2 = nn.Conv2d(32, 4, 1)  # box corrections

    def forward(self, x):
        """x (B, 3, H, W), (value - 127.5) / 128 -> face probability (B, h, w), corrections (B, 4, h, w)."""
        x = F.max_pool2d(self.prelu1(self.conv1(x)), 2, 2, ceil_mode=True)
        x = self.prelu3(self.conv3(self.prelu2(self.conv2(x))))  # (B, 32, h, w)
        return face_probability(self.conv4_1(x)), self.conv4_2(x)


class RNet(nn.Module):
    """Refinement network; 100,178 parameters."""

    def __init__(self):
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 28, 3), nn.PReLU(28)
        self.conv2, self.prelu2 = nn.Conv2d(28, 48, 3), nn.PReLU(48)
        self.conv3, self.prelu3 = nn.Conv2d(48, 64, 2), nn.PReLU(64)
        self.dense4, self.prelu4 = nn.Linear(576, 128), nn.PReLU(128)
        self.dense5_1, self.dense5_2 = nn.Linear(128, 2), nn.Linear(128, 4)

    def forward(self, x):
        """x (N, 3, 24, 24) -> face probability (N,), corrections (N, 4)."""
        x = F.max_pool2d(self.prelu1(self.conv1(x)), 3, 2, ceil_mode=True)  # (N, 28, 11, 11)
        x = F.max_pool2d(self.prelu2(self.conv2(x)), 3, 2, ceil_mode=True)  # (N, 48, 4, 4)
        x = self.prelu3(self.conv3(x))  # (N, 64, 3, 3)
        x = self.prelu4(self.dense4(x.permute(0, 3, 2, 1).flatten(1)))  # (N, 128)
        return face_probability(self.dense5_1(x)), self.dense5_2(x)


class ONet(nn.Module):
    """Output network; 389,040 parameters."""

    def __init__(self):
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 32, 3), nn.PReLU(32)
        self.conv2, self.prelu2 = nn.Conv2d(32, 64, 3), nn.PReLU(64)
        self.conv3, self.prelu3 = nn.Conv2d(64, 64, 3), nn.PReLU(64)
        self.conv4, self.prelu4 = nn.Conv2d(64, 128, 2), nn.PReLU(128)
        self.dense5, self.prelu5 = nn.Linear(1152, 256), nn.PReLU(256)
        self.dense6_1, self.dense6_2, self.dense6_3 = (
            nn.Linear(256, 2),
            nn.Linear(256, 4),
            nn.Linear(256, 10),
        )

    def forward(self, x):
        """x (N, 3, 48, 48) -> face probability (N,), corrections (N, 4), landmarks (N, 10) as x1..x5, y1..y5."""
        x = F.max_pool2d(self.prelu1(self.conv1(x)), 3, 2, ceil_mode=True)  # (N, 32, 23, 23)
        x = F.max_pool2d(self.prelu2(self.conv2(x)), 3, 2, ceil_mode=True)  # (N, 64, 10, 10)
        x = F.max_pool2d(self.prelu3(self.conv3(x)), 2, 2, ceil_mode=True)  # (N, 64, 4, 4)
        x = self.prelu4(self.conv4(x))  # (N, 128, 3, 3)
        x = self.prelu5(self.dense5(x.permute(0, 3, 2, 1).flatten(1)))  # (N, 256)
        return face_probability(self.dense6_1(x)), self.dense6_2(x), self.dense6_3(x)


def face_probability(logits):
    """Softmax over two classes, the second one's share: (N, 2, ...) -> (N, ...)."""
    return torch.sigmoid(logits[:, 1] - logits[:, 0])


# ---- area averaging by running sums


def sum_table(frames):
    """Running sums: entry (y, x) is the sum of all pixels above and to the left.

    frames: (B, H, W, 3) uint8. Returns (B, H+1, W+1, 3) int32. Sums beyond 2^31 wrap round, and differences
    of wrapped numbers are still right as long as one rectangle's own sum fits (8 million pixels).
    """
    sums = frames.to(torch.int32).cumsum(1, dtype=torch.int32).cumsum(2, dtype=torch.int32)
    return F.pad(sums, (0, 0, 1, 0, 1, 0))  # (B, H+1, W+1, 3)


def bins(length, n):
    """First and one-past-last pixel of n area bins over `length` pixels: i L / n floored, (i+1) L / n ceiled.

    length: int, or an integer tensor (N, 1). Returns two integer tensors (n,) or (N, n).
    """
    step = torch.arange(n, device=length.device if torch.is_tensor(length) else None)
    return step * length // n, ((step + 1) * length + n - 1) // n


def resize_frames(table, height, width):
    """Whole frames of a sum table, area-averaged. -> (B, 3, height, width), (mean - 127.5) / 128."""
    (top, bottom), (left, right) = bins(table.shape[1] - 1, height), bins(table.shape[2] - 1, width)
    top, bottom, left, right = (i.to(table.device) for i in (top, bottom, left, right))
    sums = table.index_select(1, bottom) - table.index_select(1, top)  # (B, height, W+1, 3)
    sums = sums.index_select(2, right) - sums.index_select(2, left)  # (B, height, width, 3)
    area = ((bottom - top)[:, None] * (right - left))[..., None]  # (height, width, 1)
    return ((sums / area - 127.5) / 128).permute(0, 3, 1, 2)  # (B, 3, height, width)


def resize_windows(table, frame, boxes, size):
    """Windows of a sum table, each area-averaged to size x size; the part outside its frame is cut off.

    frame: (N,) which frame each window lies in; boxes: (N, 4) in MATLAB numbering. -> (N, 3, size, size).
    """
    height, width = table.shape[1] - 1, table.shape[2] - 1
    x1, y1, x2, y2 = boxes.trunc().long().unbind(1)
    x1, y1 = (x1.clamp(1, width) - 1)[:, None], (y1.clamp(1, height) - 1)[:, None]  # (N, 1)
    x2, y2 = x2[:, None].clamp(max=width), y2[:, None].clamp(max=height)
    (left, right), (top, bottom) = (
        bins((x2 - x1).clamp(min=1), size),
        bins((y2 - y1).clamp(min=1), size),
    )
    left, right, top, bottom = left + x1, right + x1, top + y1, bottom + y1  # (N, size)
    flat = table.flatten(0, 2)  # (B (H+1) (W+1), 3)

    def corner(y, x):
        row = (frame[:, None] * (height + 1) + y) * (width + 1)  # (N, size)
        return flat.index_select(0, (row[:, :, None] + x[:, None, :]).flatten())  # (N size size, 3)

    sums = corner(bottom, right) - corner(bottom, left) - corner(top, right) + corner(top, left)
    area = ((bottom - top)[:, :, None] * (right - left)[:, None, :]).flatten()  # (N size size,)
    means = (sums / area[:, None] - 127.5) / 128
    return means.view(-1, size, size, 3).permute(0, 3, 1, 2)  # (N, 3, size, size)


# ---- boxes, all in MATLAB numbering


def squared(boxes):
    """Boxes (N, 4) grown to squares of their longer side about the same centre."""
    size = boxes[:, 2:] - boxes[:, :2]
    side = size.amax(1, keepdim=True)
    corner = boxes[:, :2] + size / 2 - side / 2
    return torch.cat([corner, corner + side], 1)


def corrected(boxes, shift):
    """Boxes (N, 4) moved by a network's corrections (N, 4), which are in widths and heights of the box."""
    size = boxes[:, 2:] - boxes[:, :2] + 1
    return boxes + shift * size.repeat(1, 2)


def nms_smaller(boxes, scores, frame, threshold):
    """Greedy suppression by intersection over the *smaller* box: a face within a face goes. -> kept indices.

    O-net's rule in the original. A box goes when a kept, better one of its frame covers more than `threshold`
    of the smaller of the two. Instead of a loop over boxes, "kept" is worked out anew until nothing changes.
    """
    order = scores.argsort(descending=True, stable=True)
    boxes, frame = boxes[order], frame[order]
    low = torch.maximum(boxes[:, None, :2], boxes[None, :, :2])  # (N, N, 2)
    high = torch.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = (high - low + 1).clamp(min=0).prod(2)  # (N, N)
    area = (boxes[:, 2:] - boxes[:, :2] + 1).prod(1)
    clash = (shared / torch.minimum(area[:, None], area[None]) > threshold) & (
        frame[:, None] == frame[None]
    )
    clash = clash.triu(1)  # row: the better one of the two
    kept = torch.ones_like(frame, dtype=torch.bool)
    while True:
        now = ~(clash & kept[:, None]).any(0)
        if torch.equal(now, kept):
            return order[kept]
        kept = now


class MTCNN(nn.Module):
    """The cascade. Settings in `config`; weights by `MTCNN.load`, else random.

    `find` does everything; `confirm` judges boxes that somebody else found (the paper's use of it).
    """

    def __init__(self, config=MTCNNConfig()):
        super().__init__()
        if config.min_face < 12:
            raise ValueError(f"min_face is {config.min_face}; P-net sees 12 px, so give 12 or more")
        if not 0 < config.factor < 1:
            raise ValueError(
                f"factor is {config.factor}; each pyramid level must be smaller: 0 < factor < 1"
            )
        self.config = config
        self.pnet, self.rnet, self.onet = PNet(), RNet(), ONet()
        self.eval().requires_grad_(False)

    @classmethod
    def load(cls, folder=None, config=MTCNNConfig()):
        """An MTCNN with the weights pnet.pt, rnet.pt, onet.pt of `folder` (default: `weights_folder()`)."""
        model, folder = cls(config), Path(folder or weights_folder())
        for name in ("pnet", "rnet", "onet"):
            path = folder / f"{name}.pt"
            if not path.is_file():
                raise ValueError(
                    f"no MTCNN weights at {path}; run: python data_scripts/get_weights.py --out {folder}"
                )
            getattr(model, name).load_state_dict(
                torch.load(path, map_location="cpu", weights_only=True)
            )
        return model

    @torch.inference_mode()
    def find(self, frames):
        """All faces in frames of one size.

        frames: (B, H, W, 3) uint8 RGB, tensor or array; any size, though nothing smaller than `min_face` is found.
        Returns a list of B dicts, best face first: boxes (k, 4) xyxy px, may reach over the frame's edge;
        scores (k,) in [0.7, 1]; landmarks (k, 5, 2) px. ValueError when frames have another shape or type.
        """
        frames = self._checked(frames)
        budget = PIXELS_AT_ONCE.get(frames.device.type, PIXELS_AT_ONCE["cpu"])
        parts = frames.split(max(1, budget // (frames.shape[1] * frames.shape[2])))
        return [found for part in parts for found in self._find(part)]

    def _find(self, frames):
        table = sum_table(frames)  # (B, H+1, W+1, 3)
        frame, boxes = self.propose(table)
        frame, boxes = self.refine(table, frame, boxes)
        score, shift, points = self._in_parts(self.onet, table, frame, boxes, 48)
        keep = score > self.config.thresholds[2]
        frame, boxes, score, shift, points = (t[keep] for t in (frame, boxes, score, shift, points))
        points = placed(points, boxes)  # (N, 5, 2), before the box moves
        boxes = corrected(boxes, shift)
        parts = []
        for i in range(len(frames)):  # N^2 numbers for one frame at a time
            mine = (frame == i).nonzero()[:, 0]
            parts.append(
                mine[nms_smaller(boxes[mine], score[mine], frame[mine], self.config.nms_smaller)]
            )
        to_ours = boxes.new_tensor([1, 1, 0, 0])  # pixels first..last -> edges
        return [
            {"boxes": boxes[k] - to_ours, "scores": score[k], "landmarks": points[k]} for k in parts
        ]

    @torch.inference_mode()
    def confirm(self, frames, boxes):
        """MTCNN as a binary classifier of given boxes (paper Sec. 4): face, or not?

        R-net and O-net see the square about each box; P-net is left out, as the box is a proposal already.
        frames: as in `find`. boxes: list of B tensors (k, 4), xyxy px. Returns a list of B dicts: face (k,) bool,
        true where R-net and then O-net pass their thresholds; scores (k,), O-net's, in [0, 1]; boxes (k, 4), O-net's
        opinion of where the face is; landmarks (k, 5, 2) px. One answer for each box, in the given order.
        """
        frames = self._checked(frames)
        if len(boxes) != len(frames):
            raise ValueError(
                f"boxes: {len(boxes)} lists for {len(frames)} frames; give one (k, 4) tensor a frame"
            )
        counts = [len(b) for b in boxes]
        frame = torch.repeat_interleave(torch.tensor(counts)).to(frames.device)
        square = torch.cat(
            [torch.as_tensor(b).to(frames.device).float().reshape(-1, 4) for b in boxes]
        )
        square = squared(square + square.new_tensor([1, 1, 0, 0]))
        table = sum_table(frames)
        first, shift = self._in_parts(self.rnet, table, frame, square, 24)
        square = squared(corrected(square, shift))
        score, shift, points = self._in_parts(self.onet, table, frame, square, 48)
        face = (first > self.config.thresholds[1]) & (score > self.config.thresholds[2])
        where = corrected(square, shift) - square.new_tensor([1, 1, 0, 0])
        answers = zip(*(t.split(counts) for t in (face, score, where, placed(points, square))))
        return [dict(zip(("face", "scores", "boxes", "landmarks"), answer)) for answer in answers]

    def propose(self, table):
        """P-net over the pyramid. table: `sum_table`. -> frame (N,), square boxes (N, 4) in MATLAB numbering."""
        cfg, (height, width) = self.config, (table.shape[1] - 1, table.shape[2] - 1)
        scale, found = CELL / cfg.min_face, []
        while min(height, width) * scale >= CELL:
            prob, shift = self.pnet(
                resize_frames(table, int(height * scale + 1), int(width * scale + 1))
            )
            frame, row, col = (prob >= cfg.thresholds[0]).nonzero(as_tuple=True)
            cell = torch.stack([col, row], 1) * STRIDE  # (n, 2)
            boxes = torch.cat([((cell + 1) / scale).floor(), ((cell + CELL) / scale).floor()], 1)
            level = torch.full_like(frame, len(found))
            found.append((frame, boxes, prob[frame, row, col], shift[frame, :, row, col], level))
            scale *= cfg.factor
        if not found:  # smaller than the smallest face
            return table.new_zeros(0, dtype=torch.long), table.new_zeros(0, 4, dtype=torch.float)
        frame, boxes, prob, shift, level = (torch.cat(t) for t in zip(*found))
        keep = batched_nms(boxes, prob, frame * len(found) + level, cfg.nms_level)
        keep = keep[batched_nms(boxes[keep], prob[keep], frame[keep], cfg.nms_frame)]
        frame, boxes, shift = frame[keep], boxes[keep], shift[keep]
        size = boxes[:, 2:] - boxes[:, :2]  # without the + 1 here: as the original
        return frame, squared(boxes + shift * size.repeat(1, 2))

    def refine(self, table, frame, boxes):
        """R-net on P-net's squares. -> frame (n,), square boxes (n, 4) of those it takes for faces."""
        prob, shift = self._in_parts(self.rnet, table, frame, boxes, 24)
        keep = (prob > self.config.thresholds[1]).nonzero()[:, 0]
        keep = keep[batched_nms(boxes[keep], prob[keep], frame[keep], self.config.nms_frame)]
        return frame[keep], squared(corrected(boxes[keep], shift[keep]))

    def _in_parts(self, net, table, frame, boxes, size):
        """A network's outputs for all windows, at most WINDOWS_AT_ONCE of them in memory."""
        parts = [
            net(resize_windows(table, f, b, size))
            for f, b in zip(frame.split(WINDOWS_AT_ONCE), boxes.split(WINDOWS_AT_ONCE))
        ]
        return tuple(torch.cat(t) for t in zip(*parts))

    def _checked(self, frames):
        frames = torch.from_numpy(np.array(frames)) if isinstance(frames, np.ndarray) else frames
        if (
            not torch.is_tensor(frames)
            or frames.dtype != torch.uint8
            or frames.ndim != 4
            or frames.shape[3] != 3
        ):
            got = (
                f"{tuple(frames.shape)} {frames.dtype}"
                if torch.is_tensor(frames)
                else type(frames).__name__
            )
            raise ValueError(f"frames are {got}; give (B, H, W, 3) uint8 RGB, all of one size")
        if 0 in frames.shape[1:3]:
            raise ValueError(
                f"frames are {frames.shape[1]}x{frames.shape[2]} px; give pictures that are not empty"
            )
        return frames.to(self.pnet.conv1.weight.device)


def placed(points, boxes):
    """O-net's landmarks (N, 10), in shares of the square it saw, as pixels (N, 5, 2) in our coordinates."""
    points = points.view(-1, 2, 5).transpose(1, 2)  # (N, 5, 2)
    size = boxes[:, None, 2:] - boxes[:, None, :2] + 1
    return boxes[:, None, :2] - 1 + size * points


def weights_folder():
    """Where fetched weights live: $PPAD_WEIGHTS, or ~/.cache/ppad/weights."""
    return Path(os.environ.get("PPAD_WEIGHTS") or Path.home() / ".cache" / "ppad" / "weights")
