"""SSH, the single-stage headless face detector, and Sec. 4's face finder: SSH, then MTCNN.

SSH [29: Najibi, Samangouei, Chellappa, Davis, ICCV 2017] passes a picture through one network.
Three detection modules, each on a coarser grid and for larger faces, find faces of every size:

    conv4_3 + upsampled conv5_3 -> M1, a cell every  8 px, anchors  16,  32 px
    conv5_3                     -> M2, a cell every 16 px, anchors  64, 128 px
    conv5_3, max-pooled         -> M3, a cell every 32 px, anchors 256, 512 px

An anchor is a square around the center of its cell. For each, a module predicts the probability of
a face and the shifts that fit the square to it. Two bodies: "vgg16", as published, and "light"
(ours): narrower, with batch norm, for a CPU; `data_scripts/train_ssh.py` trains it.

Our choices, not in the sources: frames are padded with the mean color to a multiple of 32; anchors
sit at cell centers and may reach over the edge; no picture pyramid at test time.

Sec. 4 goes on: SSH "produces high recall but with some false positives. Therefore, we keep the
detections with probability greater than 0.8 and feed the rest into the MTCNN face detector to
remove false positives by using it as a binary classifier". The rules of `FaceFinder`:

    paper   SSH's boxes above 0.8 that MTCNN confirms: few false positives, for data sets
    either  MTCNN's faces, and those that only SSH finds (above 0.5): few misses, to anonymize
    mtcnn   MTCNN's whole cascade alone
    ssh     SSH's boxes above 0.8 alone, without landmarks

We read "the rest" as the detections that remain: MTCNN classifies each box above 0.8. R-net and
O-net see the square around it; P-net, which only proposes boxes, is skipped. Box and score are
SSH's, landmarks are O-net's.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from ppad.files import atomic_path
from ppad.mtcnn import MTCNN, MTCNNConfig, checked, chosen, in_batches, is_new, joined, nms

MEAN_BGR = (102.9801, 115.9465, 122.7717)  # SSH's Caffe source
STRIDES = (8, 16, 32)  # SSH Sec. 3.1: M1, M2, M3
ANCHORS = ((16, 32), (64, 128), (256, 512))  # SSH: sides in px, ratio 1
TEST_SCORE = 0.05  # SSH: test
TEST_NMS = 0.3  # SSH: test
LARGEST_LOG = math.log(1000 / 16)  # Faster R-CNN (torchvision): log of a side's largest growth
# Channels of conv4_3, of conv5_3, of their fusion and M1, of M2 and M3.
WIDTHS = {
    "vgg16": (512, 512, 128, 256),  # SSH
    "light": (64, 128, 48, 96),  # ours: below 1 M parameters
}
PIXELS_AT_ONCE = {"cpu": 300_000, "cuda": 4_000_000}  # ours: limits memory; CPU as in `mtcnn`
RULES = ("paper", "either", "mtcnn", "ssh")
PAPER_SCORE = 0.8  # paper Sec. 4
RECALL_SCORE = 0.5  # ours: where a miss costs more than a false positive
THRESHOLD = 0.6  # ours: MTCNN's lowered by 0.1, since a miss costs more
SMALLEST_FACE = 20.0  # MTCNN's own default, px
ABOUT = 1.5  # ours: margin searched around a lost face, in its sides (`tracks.MAX_REACH`)
# Ours, times the smallest face. Where SSH searches too, MTCNN looks only for faces at least this
# large, in a third of the time. A lost face is scaled down to this size, as it may have halved.
LARGER = 2
CUT = 20  # ours: a larger mean change of pixels (0-255) between frames is a cut
EVERY = 16  # ours: compare every 16th row and column; any face covers one
NOTICED = 8  # ours: a pixel's change (0-255) that exceeds camera noise
BRIGHT = 0.45  # ours: mean (0-1) to which shadows are lifted
GAMMA = 0.6


class VGGBody(nn.Module):
    """VGG-16 up to conv5_3. x -> conv4_3 (B, 512, H/8, W/8), conv5_3 (B, 512, H/16, W/16)."""

    def __init__(self):
        super().__init__()
        from torchvision.models.vgg import cfgs, make_layers  # a slow import, see `mtcnn.nms`

        self.features = make_layers(cfgs["D"][:-1])
        self.features[:10].requires_grad_(False)  # SSH freezes conv1 and conv2

    def forward(self, x):
        fine = self.features[:23](x)
        return fine, self.features[23:](fine)


def conv_norms(*layers):
    """3x3 convolutions (channels in, channels out, stride), each with batch norm and ReLU."""
    blocks = []
    for channels_in, channels_out, stride in layers:
        conv = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        blocks.append(nn.Sequential(conv, nn.BatchNorm2d(channels_out), nn.ReLU(inplace=True)))
    return nn.Sequential(*blocks)


class LightBody(nn.Module):
    """Ours: eight 3x3 convolutions. x -> (B, 64, H/8, W/8), (B, 128, H/16, W/16)."""

    def __init__(self):
        super().__init__()
        self.fine = conv_norms((3, 16, 2), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1))
        self.coarse = conv_norms((64, 128, 2), (128, 128, 1), (128, 128, 1))

    def forward(self, x):
        fine = self.fine(x)
        return fine, self.coarse(fine)


class DetectionModule(nn.Module):
    """M1, M2 or M3 (SSH Fig. 3, 4): a 3x3 convolution beside context filters of 5x5 and 7x7.

    x (B, channels, h, w) -> class logits (B, 2hw, 2), box shifts (B, 2hw, 4); 2 anchors per cell.
    """

    def __init__(self, channels, width):
        super().__init__()
        half = width // 2
        self.a = nn.Conv2d(channels, width, 3, padding=1)
        self.r = nn.Conv2d(channels, half, 3, padding=1)
        self.b = nn.Conv2d(half, half, 3, padding=1)
        self.c1 = nn.Conv2d(half, half, 3, padding=1)
        self.c2 = nn.Conv2d(half, half, 3, padding=1)
        self.score = nn.Conv2d(2 * width, 4, 1)
        self.box = nn.Conv2d(2 * width, 8, 1)

    def forward(self, x):
        reduced = F.relu(self.r(x))  # (B, width / 2, h, w)
        context = self.c2(F.relu(self.c1(reduced)))
        x = F.relu(torch.cat([self.a(x), self.b(reduced), context], 1))  # (B, 2 width, h, w)
        logits = self.score(x).permute(0, 2, 3, 1).reshape(len(x), -1, 2)
        shifts = self.box(x).permute(0, 2, 3, 1).reshape(len(x), -1, 4)
        return logits, shifts


class SSH(nn.Module):
    """The detector. body: "light" or "vgg16". Call `forward` in training, `find` otherwise.

    A new one is in training mode, one from `load` in evaluation mode.
    """

    def __init__(self, body="light"):
        super().__init__()
        if body not in WIDTHS:
            raise ValueError(f"body is {body!r}; choose one of {sorted(WIDTHS)}")
        self.kind = body
        fine, coarse, fused, width = WIDTHS[body]
        self.fine = nn.Conv2d(fine, fused, 1)
        self.coarse = nn.Conv2d(coarse, fused, 1)
        self.join = nn.Conv2d(fused, fused, 3, padding=1)
        self.m1 = DetectionModule(fused, fused)
        self.m2 = DetectionModule(coarse, width)
        self.m3 = DetectionModule(coarse, width)
        for name, layer in self.named_modules():  # the body, added below, is not touched
            if isinstance(layer, nn.Conv2d):
                nn.init.zeros_(layer.bias)
                if body == "vgg16" or name.endswith(("score", "box")):
                    nn.init.normal_(layer.weight, 0, 0.01)  # SSH
                else:
                    nn.init.kaiming_normal_(layer.weight)  # ours: from scratch, 0.01 would stall
        self.body = VGGBody() if body == "vgg16" else LightBody()

    @classmethod
    def load(cls, path=None):
        """Load a file of `save`, by default our light SSH. ValueError if missing or damaged."""
        path = Path(path or Path(__file__).parent / "weights" / "ssh_light.pt")
        try:
            saved = torch.load(path, map_location="cpu", weights_only=True)
            model = cls(saved["body"]).eval()
            model.load_state_dict(saved["weights"])
        except Exception as error:  # torch.load raises many types
            fix = f"or train it: python data_scripts/train_ssh.py --train DATA --out {path}"
            fault = f"no SSH weights at {path}, or they are damaged"
            raise ValueError(f"{fault}: restore the file, {fix}") from error
        return model

    def save(self, path):
        """Write the body's name and the weights atomically."""
        weights = {name: value.cpu() for name, value in self.state_dict().items()}
        with atomic_path(path) as temporary:
            torch.save({"body": self.kind, "weights": weights}, temporary)

    def fold_batch_norm(self):
        """Fold the light body's batch norms into its convolutions: a sixth faster, no training."""
        for block in (*self.body.fine, *self.body.coarse):
            block[0] = nn.utils.fuse_conv_bn_eval(block[0], block[1])
            block[1] = nn.Identity()
        return self

    def forward(self, frames):
        """Logits (B, N, 2) of no face and face, box shifts (B, N, 4) for `anchors_for`.

        frames: (B, H, W, 3) uint8 RGB.
        """
        bgr = frames.flip(3).permute(0, 3, 1, 2)  # (B, 3, H, W)
        x = bgr - torch.tensor(MEAN_BGR, device=frames.device)[:, None, None]
        x = F.pad(x, (0, -x.shape[3] % STRIDES[-1], 0, -x.shape[2] % STRIDES[-1]))  # 0: the mean
        fine, coarse = self.body(x)
        up = F.relu(self.coarse(coarse))  # (B, fused, H/16, W/16)
        up = F.interpolate(up, scale_factor=2, mode="bilinear", align_corners=False)
        fused = F.relu(self.join(F.relu(self.fine(fine)) + up))  # (B, fused, H/8, W/8)
        logits, shifts = zip(self.m1(fused), self.m2(coarse), self.m3(F.max_pool2d(coarse, 2)))
        return torch.cat(logits, 1), torch.cat(shifts, 1)

    @torch.inference_mode()
    def find(self, frames, score=TEST_SCORE):
        """Find the faces in frames of one size.

        frames: (B, H, W, 3) uint8 RGB, tensor or array. score: faces need a higher one.
        Returns a list of B dicts, best face first: boxes (k, 4) xyxy px inside the frame,
        scores (k,) in [score, 1]. Raises ValueError for frames of another shape or type.
        """
        detections = []
        for part in in_batches(frames, PIXELS_AT_ONCE, self.fine.weight.device):
            height, width = part.shape[1:3]
            logits, shifts = self(part)
            probability = logits.softmax(2)[..., 1]  # (B, N)
            anchors, _ = anchors_for(height, width)
            frame, index = (probability > score).nonzero(as_tuple=True)  # (n,)
            boxes = shifted(anchors.to(part.device)[index], shifts[frame, index])  # (n, 4)
            edge = torch.tensor([width, height] * 2, device=part.device)
            boxes = boxes.clamp(min=0).minimum(edge)
            faces = {"boxes": boxes, "scores": probability[frame, index]}
            keep = nms(boxes, faces["scores"], TEST_NMS, frame)
            detections += [chosen(faces, keep[frame[keep] == i]) for i in range(len(part))]
        return detections


def anchors_for(height, width):
    """All anchors of a frame padded to a multiple of 32 px, in the network's output order.

    Returns xyxy px (N, 4), by module, row, column and side, and the modules (0, 1, 2) (N,).
    """
    boxes = []
    modules = []
    bottom, right = (math.ceil(side / STRIDES[-1]) * STRIDES[-1] for side in (height, width))
    for module, (stride, sides) in enumerate(zip(STRIDES, ANCHORS)):
        y = torch.arange(stride / 2, bottom, stride)  # (rows,), centers of cells
        x = torch.arange(stride / 2, right, stride)  # (columns,)
        center = torch.cartesian_prod(y, x).flip(1)[:, None]  # (cells, 1, 2)
        half = torch.tensor(sides)[:, None] / 2  # (2, 1)
        boxes.append(torch.cat([center - half, center + half], 2).view(-1, 4))  # (2 cells, 4)
        modules.append(torch.full((len(boxes[-1]),), module))
    return torch.cat(boxes), torch.cat(modules)


def shifted(anchors, shifts):
    """Anchors (N, 4) moved by shifts (N, 4): center in sides, log size (Faster R-CNN)."""
    size = anchors[:, 2:] - anchors[:, :2]
    center = anchors[:, :2] + size / 2 + shifts[:, :2] * size
    half = size * shifts[:, 2:].clamp(max=LARGEST_LOG).exp() / 2
    return torch.cat([center - half, center + half], 1)


# ---------------------------------------------------------------- SSH, then MTCNN


class FaceFinder:
    """Finds faces by one of `RULES`.

    mtcnn, ssh: the detectors, or any objects with the same `find` and `confirm`; None loads one if
    the rule needs it. Raises ValueError for an unknown rule or missing weights.
    """

    def __init__(self, mtcnn=None, ssh=None, rule="paper"):
        if rule not in RULES:
            raise ValueError(f"rule is {rule!r}; choose one of {', '.join(RULES)}")
        self.rule = rule
        self.mtcnn = MTCNN.load() if mtcnn is None and rule != "ssh" else mtcnn
        self.ssh = SSH.load() if ssh is None and rule != "mtcnn" else ssh

    def find(self, frames):
        """Find the faces in each frame.

        frames: (B, H, W, 3) uint8 RGB, or a list of (H, W, 3) whose sizes may differ.
        Returns a list of B dicts, best face first: boxes (k, 4) xyxy px (MTCNN's may reach over the
        edge); scores (k,) in [0, 1], from the detector that gave the box; landmarks (k, 5, 2) px,
        NaN under rule "ssh". k may be 0. Raises ValueError if a frame is not (H, W, 3) uint8.
        """
        frames = [checked(frame[None]) for frame in frames]  # (1, H, W, 3) each
        by_size = {}  # the detectors take frames of one size
        for i, frame in enumerate(frames):
            by_size.setdefault(frame.shape, []).append(i)
        answers = [None] * len(frames)
        for indices in by_size.values():
            found = self._find(torch.cat([frames[i] for i in indices]))
            for i, faces in zip(indices, found):
                answers[i] = chosen(faces, faces["scores"].argsort(descending=True, stable=True))
        return answers

    def _find(self, frames):
        if self.rule == "mtcnn":
            return self.mtcnn.find(frames)
        if self.rule == "either":
            return self._either(frames)
        found = self.ssh.find(frames, score=PAPER_SCORE)
        if self.rule == "ssh":
            for faces in found:
                faces["landmarks"] = faces["boxes"].new_full((len(faces["boxes"]), 5, 2), torch.nan)
            return found
        answers = self.mtcnn.confirm(frames, [faces["boxes"] for faces in found])
        for faces, answer in zip(found, answers):
            faces["landmarks"] = answer["landmarks"]
        return [chosen(faces, answer["face"]) for faces, answer in zip(found, answers)]

    def _either(self, frames):
        """MTCNN's faces, and those that SSH alone finds."""
        by_mtcnn = self.mtcnn.find(frames)
        by_ssh = self.ssh.find(frames, score=RECALL_SCORE)
        ssh_only = [chosen(b, is_new(b["boxes"], a["boxes"])) for a, b in zip(by_mtcnn, by_ssh)]
        answers = self.mtcnn.confirm(frames, [faces["boxes"] for faces in ssh_only])
        for mtcnn, ssh, answer in zip(by_mtcnn, ssh_only, answers):
            ssh["landmarks"] = answer["landmarks"]  # answer["face"] is ignored
            mtcnn.update({name: torch.cat([mtcnn[name], ssh[name]]) for name in mtcnn})
        return by_mtcnn


# ---------------------------------------------------------------- few misses, fast movies (ours)


@dataclass(eq=False)
class RecallFinder:
    """Finds the faces that MTCNN or SSH detects: a tensor (k, 4) per frame, on the CPU."""

    mtcnn: MTCNN
    ssh: SSH
    ssh_score: float = RECALL_SCORE  # SSH's threshold

    def __post_init__(self):
        self.larger_face = LARGER * self.mtcnn.config.min_face

    def __call__(self, frames):
        """Boxes of frames (H, W, 3) uint8, each searched alone."""
        return [self._both(frame[None])[0] for frame in frames]

    def _both(self, frames):
        """Boxes of frames (B, H, W, 3), joined from both detectors."""
        pairs = zip(self.mtcnn.find(frames), self.ssh.find(frames, self.ssh_score))
        return [joined(mtcnn["boxes"].cpu(), ssh["boxes"].cpu()) for mtcnn, ssh in pairs]

    def follow(self, frames):
        """Boxes of successive frames.

        MTCNN searches the first frame. SSH searches the middle one, where MTCNN looks for LARGER
        faces in the part that has changed. After a cut, both search everything. In all frames R-net
        and O-net look where they last saw faces, in a twentieth of the time. Where they lose a
        face, both detectors search around it. A face seen only for a moment may be missed.
        """
        middle = len(frames) // 2
        searched = None  # the last frame that MTCNN searched
        tracked = torch.zeros(0, 4)  # where R-net and O-net saw faces
        found = []
        for i, frame in enumerate(frames):
            first = i == 0 or difference(frames[i - 1], frame).mean() > CUT  # of a scene
            tracked, lost = self._confirm(frame, tracked[:0] if first else tracked)
            tracked = joined(tracked, self._search_near(self, frame, lost))
            if first or i == middle:
                part = np.s_[0:, 0:] if first else changed(searched, frame)
                (faces,) = self.mtcnn.find(frame[part][None], None if first else self.larger_face)
                corner = torch.tensor([part[1].start, part[0].start] * 2)
                tracked = joined(tracked, faces["boxes"].cpu() + corner)
                searched = frame
            boxes = tracked
            if i == middle or first and i:
                (faces,) = self.ssh.find(frame[None], self.ssh_score)
                boxes = joined(tracked, faces["boxes"].cpu())
                confirmed, _ = self._confirm(frame, boxes[len(tracked) :])
                tracked = torch.cat([tracked, confirmed])
            found.append(boxes)
        return found

    def _confirm(self, frame, boxes):
        """Boxes that MTCNN confirms, moved to the faces' new places; boxes that it rejects."""
        if len(boxes) == 0:
            return boxes, boxes
        (answer,) = self.mtcnn.confirm(frame[None], [boxes])
        face = answer["face"].cpu()
        return answer["boxes"].cpu()[face], boxes[~face]

    def _search_near(self, search, frame, lost):
        """Boxes that `search` finds around `lost` (k, 4); large faces are scaled down."""
        found = lost[:0]
        for box in lost:
            side = (box[2:] - box[:2]).max()
            low = (box[:2] - ABOUT * side).long().clamp(min=0)
            high = (box[2:] + ABOUT * side).long().minimum(torch.tensor(frame.shape[1::-1]))
            if (low < high).all():
                part = Image.fromarray(frame[low[1] : high[1], low[0] : high[0]])
                size = ((high - low) * min(1, self.larger_face / float(side))).ceil().int()  # (2,)
                (boxes,) = search([np.array(part.resize(size.tolist(), Image.Resampling.BOX))])
                found = joined(found, boxes * ((high - low) / size).repeat(2) + low.repeat(2))
        return found

    def closely(self, frames, lost=None):
        """Boxes of frames, each searched as it is, turned left and right, and with lifted shadows.

        This finds lying and dark faces. lost: boxes (k, 4); search only around them.
        """
        if lost is not None:
            lost = torch.as_tensor(lost, dtype=torch.float)
            return [self._search_near(self.closely, frame, lost) for frame in frames]
        found = []
        for frame in frames:
            height, width = frame.shape[:2]
            boxes, lifted = self._both(np.stack([frame, lift_shadows(frame)]))
            left, right = self._both(np.stack([np.rot90(frame), np.rot90(frame, -1)]))
            sign = torch.tensor([-1, 1, -1, 1])
            left = left[:, [3, 0, 1, 2]] * sign + torch.tensor([width, 0, width, 0])
            right = right[:, [1, 2, 3, 0]] * -sign + torch.tensor([0, height, 0, height])
            for extra_boxes in (lifted, left, right):
                boxes = joined(boxes, extra_boxes)
            found.append(boxes)
        return found


def difference(before, frame):
    """Mean absolute change (0-255) at every EVERY-th row and column, (h, w)."""
    before = before[::EVERY, ::EVERY].astype(np.float32)
    return np.abs(frame[::EVERY, ::EVERY] - before).mean(2)


def changed(before, frame):
    """Slices of the rows and columns that have changed, plus half their extent; never empty."""
    places = np.argwhere(difference(before, frame) > NOTICED)  # (n, 2)
    places = places if len(places) else np.zeros((1, 2), int)
    low = EVERY * places.min(0)
    high = EVERY * (places.max(0) + 1)
    margin = max(*(high - low), 2 * EVERY) // 2
    y, x = (low - margin).clip(0)
    return np.s_[y : high[0] + margin, x : high[1] + margin]


def lift_shadows(frame):
    """Brighten (H, W, 3) uint8 by a gamma <= GAMMA that maps its mean value to >= BRIGHT (ours)."""
    gamma = min(GAMMA, np.log(BRIGHT) / np.log(np.clip(frame.mean() / 255, 1e-3, 0.999)))
    curve = (255 * (np.arange(256) / 255) ** gamma).round().astype(np.uint8)
    return curve[frame]


def default_finder(min_face=SMALLEST_FACE, device="cpu", threshold=THRESHOLD):
    """A finder with few misses, by MTCNN and SSH.

    min_face: px. threshold: least face probability; for MTCNN's P-net and SSH 0.1 less.
    Raises ValueError for a threshold not in (0.1, 1) or missing weights.
    """
    if not 0.1 < threshold < 1:
        raise ValueError(f"threshold is {threshold}: give a number between 0.1 and 1")
    thresholds = (threshold - 0.1, threshold, threshold)
    mtcnn = MTCNN.load(config=MTCNNConfig(min_face=min_face, thresholds=thresholds)).to(device)
    ssh = SSH.load().fold_batch_norm().to(device)
    return RecallFinder(mtcnn, ssh, ssh_score=threshold - 0.1)
