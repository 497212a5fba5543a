"""Train the light SSH face detector (paper Sec. 4: "We use SSH [29]"; the training data are ours).

    python data_scripts/train_ssh.py --train DATA --out ssh_light.pt

DATA holds photo_pack/ (action stills and faces) and lfw/. Anchor matching, mining and the loss are
those of SSH (Najibi et al., ICCV 2017). The training frames are ours: an action still with up to
three face pictures pasted over it, rescaled and recolored. Also ours: each face's best anchor is
positive even below IoU 0.5, and the box loss is averaged over positives.
"""

import argparse
import copy
import functools
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torchvision.ops import box_iou

# a script's sys.path lacks the project's root
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _common import run
from _faces import check_device

from ppad.files import (
    DataError,
    check_writable,
    find_picture,
    numbers,
    open_picture,
    read_table,
)
from ppad.folders import BOX_COLUMNS
from ppad.ssh import SSH, STRIDES, anchors_for

POSITIVE = 0.5  # SSH: least IoU of a positive anchor
NEGATIVE = 0.3  # SSH: a negative anchor's IoU is lower
MINED = 256  # SSH: anchors per module and picture
MINED_POSITIVE = 64  # SSH: at most 25 % are positive
STOPPED = "weights saved every 250 steps, if any, are in --out; start again with another --out"
SMOOTH_L1_BETA = 1 / 9  # Faster R-CNN source, whose RPN loss SSH keeps (sigma = 3)


# ---------------------------------------------------------------- loss


def shifts_to(anchors, boxes):
    """The shifts (N, 4) that turn anchors (N, 4) into boxes (N, 4); inverse of `ssh.shifted`."""
    size = anchors[:, 2:] - anchors[:, :2]
    target_size = boxes[:, 2:] - boxes[:, :2]
    center = (boxes[:, :2] + boxes[:, 2:] - anchors[:, :2] - anchors[:, 2:]) / 2 / size
    return torch.cat([center, (target_size / size).log()], 1)


def match_anchors(anchors, boxes):
    """Label anchors by their IoU with faces.

    anchors: (N, 4); boxes: (k, 4), k may be 0. Returns labels (N,), 1 positive, 0 negative,
    -1 ignored, and the index of each anchor's best box (N,).
    """
    if len(boxes) == 0:
        return torch.zeros(2, len(anchors), dtype=torch.long, device=anchors.device).unbind()
    iou = box_iou(anchors, boxes)  # (N, k)
    best, which = iou.max(1)
    labels = torch.where(best >= POSITIVE, 1, torch.where(best < NEGATIVE, 0, -1))
    best_anchor = iou.argmax(0)  # (k,)
    labels[best_anchor] = 1
    which[best_anchor] = torch.arange(len(boxes), device=boxes.device)
    return labels, which


def mine_hard(labels, face_score):
    """Hard example mining in one module: indices of positives and of negatives.

    The 64 lowest-scoring positives and the highest-scoring negatives, 256 anchors in all.
    """
    positive = (labels == 1).nonzero()[:, 0]
    negative = (labels == 0).nonzero()[:, 0]
    positive = positive[face_score[positive].argsort()[:MINED_POSITIVE]]
    negative = negative[face_score[negative].argsort(descending=True)[: MINED - len(positive)]]
    return positive, negative


def ssh_loss(logits, shifts, anchors, modules, boxes):
    """SSH's Eq. 1: per module, cross-entropy of mined anchors + smooth L1 loss of mined positives.

    logits: (B, N, 2); shifts: (B, N, 4); anchors: (N, 4); modules: (N,); boxes: list of B tensors
    (k, 4), k may be 0. Returns a scalar: summed over modules, averaged over pictures.
    """
    total = logits.sum() * 0
    for logit, shift, target_boxes in zip(logits, shifts, boxes):
        labels, which = match_anchors(anchors, target_boxes)
        score = logit.detach().softmax(1)[:, 1]  # (N,)
        for module in range(len(STRIDES)):
            own = (modules == module).nonzero()[:, 0]
            positive, negative = mine_hard(labels[own], score[own])
            positive = own[positive]
            mined = torch.cat([positive, own[negative]])
            total = total + F.cross_entropy(logit[mined], labels[mined])
            if len(positive):
                target = shifts_to(anchors[positive], target_boxes[which[positive]])
                box_loss = F.smooth_l1_loss(
                    shift[positive], target, reduction="sum", beta=SMOOTH_L1_BETA
                )
                total = total + box_loss / len(positive)
    return total / len(boxes)


# ---------------------------------------------------------------- training frames (all ours)


def read_boxes(path):
    """Read a face table (file, score, x_min, y_min, x_max, y_max) as {file: boxes (k, 4) px}."""
    faces = {}
    for row in read_table(path, ("file", *BOX_COLUMNS), may_be_empty=True):
        if row.get("score") != "NONE":  # a table of prepare_folder.py has no scores
            faces.setdefault(row["file"], []).append(numbers(row, BOX_COLUMNS))
    return {name: np.array(boxes, np.float32) for name, boxes in faces.items()}


class Scenes:
    """Draws training frames: an action still, up to three faces pasted over it, new colors.

    data: a folder with photo_pack/ and lfw/. Stills of the official test split and LFW people in
    photo_pack/faces/test are left out, for testing. Stills without faces are negatives. Raises
    DataError for a table that is missing, cannot be read, or lists nothing to train on.
    """

    def __init__(self, data):
        pack = Path(data) / "photo_pack"
        lfw = Path(data) / "lfw"
        annotations = pack / "actions" / "annotations.csv"
        still_faces = pack / "actions" / "faces.csv"
        lfw_faces = lfw / "landmarks.tsv"
        for path in (annotations, still_faces, lfw_faces):
            if not path.is_file():
                raise DataError(
                    f"data: {path} is missing; give --train the folder of photo_pack/ and lfw/"
                )
        boxes = read_boxes(still_faces)
        none = np.zeros((0, 4), np.float32)
        rows = read_table(annotations, ("file", "split"))
        names = [row["file"] for row in rows if row["split"] == "train"]
        self.stills = [
            (find_picture(pack / "actions", name), boxes.get(name, none)) for name in names
        ]
        test_people = {path.parent.name for path in (pack / "faces" / "test").rglob("*.*")}
        self.faces = [
            (find_picture(lfw / "lfw-deepfunneled", name), boxes[:1])
            for name, boxes in read_boxes(lfw_faces).items()
            if name.split("/")[0] not in test_people
        ]
        # Crops of 160 px, 1.6 times the face's height; aspect ratio: LFW's median.
        box = 80 + 50 * np.array([[-0.75, -1, 0.75, 1]], np.float32)
        self.faces += [(path, box) for path in sorted((pack / "faces" / "train").rglob("*.webp"))]
        for path, pictures in ((annotations, self.stills), (lfw_faces, self.faces)):
            if not pictures:
                raise DataError(f"{path}: lists no picture to train on; give the full table")

    def __call__(self, rng, size):
        """Draw a frame (size, size, 3) uint8 and its face boxes (k, 4) px by a NumPy generator."""
        path, boxes = self.stills[rng.integers(len(self.stills))]
        canvas = Image.new("RGB", (size, size))
        still = open_cached(path)
        scale = size / min(still.size) * rng.uniform(1, 2)
        corner = [-rng.uniform(0, side * scale - size) for side in still.size]
        boxes = paste(canvas, still, scale, corner, boxes, boxes[:0])
        for _ in range(rng.integers(4)):
            path, box = self.faces[rng.integers(len(self.faces))]
            picture, box = cut_around(open_cached(path), box, rng.uniform(0.1, 0.5))
            height = np.exp(rng.uniform(np.log(12), np.log(0.9 * size)))  # of the pasted face, px
            scale = height / (box[0, 3] - box[0, 1])
            corner = rng.uniform(0, size, 2) - (box[0, :2] + box[0, 2:]) / 2 * scale
            boxes = paste(canvas, picture, scale, corner, box, boxes)
        frame = np.asarray(canvas, np.float32)  # (size, size, 3)
        if rng.random() < 0.5:
            frame = frame[:, ::-1]
            x0, y0, x1, y1 = boxes.T
            boxes = np.stack([size - x1, y0, size - x0, y1], 1)
        return change_colors(frame, rng).clip(0, 255).astype(np.uint8), boxes


def change_colors(frame, rng):
    """Random contrast, brightness and tint of (H, W, 3) float in [0, 255]; 10 % become gray."""
    if rng.random() < 0.1:
        frame = frame.mean(2, keepdims=True)  # (H, W, 1)
    contrast = rng.uniform(0.6, 1.3)
    return (frame - 127.5) * contrast + 127.5 + rng.uniform(-40, 40) + rng.uniform(-15, 15, 3)


@functools.lru_cache(maxsize=4096)  # at most 800 MB; decoding would take the most time
def open_cached(path):
    return open_picture(path)


def cut_around(picture, box, margin):
    """Crop a picture around a box (1, 4); returns the crop and the box in it.

    margin: on each side, in box heights. A larger one could show neighbors' faces.
    """
    margin = margin * (box[0, 3] - box[0, 1])
    window = np.stack([box[0, :2] - margin, box[0, 2:] + margin]).clip(0, picture.size).astype(int)
    return picture.crop(window.flatten().tolist()), box - np.tile(window[0], 2)


def paste(canvas, picture, scale, corner, new, old):
    """Paste a rescaled picture into `canvas`, unless it would partly hide a face in `old`.

    corner: (x, y) px of the canvas; new: face boxes (k, 4) of the picture, before scaling; old: of
    the canvas. Returns the boxes then visible, clipped to the canvas; a new face needs 40 % inside.
    """
    size = canvas.size[0]
    corner = np.round(corner).astype(int)
    wide, tall = (max(1, round(side * scale)) for side in picture.size)
    new = new * scale + np.tile(corner, 2)
    hidden = share_inside(old, np.array([*corner, *(corner + (wide, tall))]))
    if ((hidden > 0.1) & (hidden < 1)).any():
        return old
    canvas.paste(picture.resize((wide, tall), Image.Resampling.BILINEAR), tuple(corner.tolist()))
    new = new[share_inside(new, np.array([0, 0, size, size])) > 0.4].clip(0, size)
    return np.concatenate([old[hidden < 1], new]).astype(np.float32)


def share_inside(boxes, window):
    """Fraction of each box (k, 4) that lies in window (4,): (k,)."""
    low = np.maximum(boxes[:, :2], window[:2])
    high = np.minimum(boxes[:, 2:], window[2:])
    return (high - low).clip(0).prod(1) / (boxes[:, 2:] - boxes[:, :2]).prod(1)


# ---------------------------------------------------------------- training


def train_light(
    draw,
    steps,
    batch=8,
    size=192,
    lr=2e-3,
    seed=0,
    device="cpu",
    minutes=math.inf,
    bfloat16=False,
    keep=lambda model: None,
    log=print,
):
    """Train a light SSH from scratch with Adam.

    The learning rate has a linear warm-up over the first 5 % and a cosine decay to 0 at `steps` or
    `minutes`, whichever comes first.

    Args:
        draw: draw(rng, size) -> frame (size, size, 3) uint8, boxes (k, 4) px; rng is NumPy's.
        bfloat16: whether the network computes in bfloat16.
        keep: keep(model) is called every 250 steps and at the end.
        log: log(text) is called every 50 steps.

    Returns:
        The SSH, in evaluation mode.

    Raises:
        DataError: the loss is no longer finite.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = SSH("light").to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.Adam(model.parameters(), lr)
    anchors, modules = (tensor.to(device) for tensor in anchors_for(size, size))
    start = time.monotonic()
    step = 0
    while (done := max(step / steps, (time.monotonic() - start) / 60 / minutes)) < 1:
        rate = lr * min(1, 0.01 + done / 0.05) * (1 + math.cos(math.pi * done)) / 2
        optimizer.param_groups[0]["lr"] = rate
        frames, boxes = zip(*(draw(rng, size) for _ in range(batch)))
        frames = torch.from_numpy(np.stack(frames)).to(device)  # (batch, size, size, 3)
        boxes = [torch.as_tensor(b, dtype=torch.float, device=device).view(-1, 4) for b in boxes]
        with torch.autocast(frames.device.type, torch.bfloat16, enabled=bfloat16):
            logits, shifts = model(frames)
        loss = ssh_loss(logits.float(), shifts.float(), anchors, modules, boxes)
        if not torch.isfinite(loss):
            raise DataError(
                f"lr is {lr}: the loss is {loss.item()} at step {step}; give a smaller rate"
            )
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10)
        optimizer.step()
        if step % 50 == 0 or step == steps - 1:
            log(f"step {step} loss {loss.item():.3f}")
        step += 1
        if step % 250 == 0:
            keep(model)
    keep(model)
    return model.eval()


def parse(argv):
    parser = argparse.ArgumentParser(
        prog="python data_scripts/train_ssh.py", description="Train the light SSH face detector."
    )
    parser.add_argument(
        "--train", required=True, metavar="DATA", help="folder that holds photo_pack/ and lfw/"
    )
    parser.add_argument("--out", type=Path, default=Path("ssh_light.pt"))
    parser.add_argument("--steps", type=int, default=12000, help="default 12000")
    parser.add_argument("--batch", type=int, default=8, help="default 8")
    parser.add_argument("--size", type=int, default=192, help="px of a frame, default 192")
    parser.add_argument("--lr", type=float, default=2e-3, help="default 0.002")
    parser.add_argument("--seed", type=int, default=0, help="default 0")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after these")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--bfloat16", action="store_true", help="faster on chips that have it")
    return parser.parse_args(argv)


def check(args):
    """DataError or WriteError for settings that would fail later or overwrite a file."""
    for name, least in (("steps", 1), ("batch", 1), ("size", 32), ("seed", 0)):
        if getattr(args, name) < least:
            raise DataError(f"--{name} is {getattr(args, name)}; give {least} or more")
    for name in ("lr", "minutes"):
        if not getattr(args, name) > 0:  # False for NaN
            raise DataError(f"--{name} is {getattr(args, name)}; give a number above 0")
    check_device(args.device)
    if args.out.exists():
        raise DataError(f"--out {args.out} is there already; give another name, or move it away")
    check_writable(args.out.absolute().parent)


def main(argv=None):
    args = parse(argv)
    check(args)
    args = vars(args)
    data = args.pop("train")
    out = args.pop("out")
    train_light(
        Scenes(data), **args, keep=lambda model: copy.deepcopy(model).cpu().half().save(out)
    )


if __name__ == "__main__":
    sys.exit(run(main, stopped=STOPPED))
