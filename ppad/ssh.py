"""SSH, the single-stage headless face detector (paper Sec. 4, "Face Detection": "We use SSH [29]").

SSH [Najibi, Samangouei, Chellappa, Davis, ICCV 2017] scans a picture once and finds faces of every size by three
detection modules, each of which looks at a coarser grid and is asked for larger faces only:

    conv4_3 + upsampled conv5_3 -> M1, a cell every  8 px, anchors  16,  32 px
    conv5_3                     -> M2, a cell every 16 px, anchors  64, 128 px
    conv5_3, max-pooled         -> M3, a cell every 32 px, anchors 256, 512 px

An anchor is a square about its cell; for each, a module says how sure it is of a face there and how the square must
move to fit. Two bodies: "vgg16", as published (conv1 and conv2 frozen, ImageNet start by `load_imagenet`), and "light",
ours: the same three modules, narrower, on a small body with batch norm that a CPU can train and run.

The paper keeps what scores over 0.8 and lets MTCNN confirm it; `ppad.face_finder` joins the two.
Open in the sources, decided here: frames are padded with the mean colour to a multiple of 32; anchors sit at cell centres
and may reach over the edge; each face's best anchor is positive even below 0.5; the box loss is averaged over positives;
no picture pyramid at test time.

    python -m ppad.ssh --train DATA --out ssh_light.pt      trains the light form
"""

import argparse
import copy
import csv
import functools
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torchvision.ops import batched_nms, box_iou, clip_boxes_to_image

MEAN_BGR = (102.9801, 115.9465, 122.7717)  # SSH's Caffe source
STRIDES = (8, 16, 32)  # SSH Sec. 3.1: M1, M2, M3
ANCHORS = ((16, 32), (64, 128), (256, 512))  # SSH: sides in px, ratio 1
POSITIVE, NEGATIVE = 0.5, 0.3  # SSH: least IoU of a positive, greatest of a negative
MINED, MINED_POSITIVE = 256, 64  # SSH: anchors a module and picture, 25 % positive at most
SMOOTH_L1_BETA = 1 / 9  # Faster R-CNN source, whose RPN loss SSH keeps (sigma = 3)
TEST_SCORE, TEST_NMS = 0.05, 0.3  # SSH: test
LARGEST_LOG = math.log(1000 / 16)  # Faster R-CNN (torchvision): no box grows by more at once
WIDTHS = {
    "vgg16": (512, 512, 128, 256),  # SSH: channels of conv4_3, conv5_3; of A in M1; in M2 and M3
    "light": (64, 128, 48, 96),
}  # ours: below 1 M parameters
PIXELS_AT_ONCE = {
    "cpu": 300_000,
    "cuda": 4_000_000,
}  # ours, bounds the memory of `find`; on a CPU as `mtcnn`


class VGGBody(nn.Module):
    """VGG-16 without its last pool and dense layers. x -> conv4_3 (B, 512, H/8, W/8), conv5_3 (B, 512, H/16, W/16)."""

    def __init__(self):
        super().__init__()
        layers, channels = [], 3
        for stage, (width, count) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))):
            layers += [nn.MaxPool2d(2)] if stage else []
            for _ in range(count):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
                channels = width
        self.features = nn.Sequential(*layers)  # numbered as torchvision's
        self.features[:10].requires_grad_(False)  # SSH: conv1 and conv2 keep their ImageNet weights

    def forward(self, x):
        fine = self.features[:23](x)  # (B, 512, H/8, W/8)
        return fine, self.features[23:](fine)


class LightBody(nn.Module):
    """Ours: eight 3x3 convolutions with batch norm. x -> (B, 64, H/8, W/8), (B, 128, H/16, W/16)."""

    def __init__(self):
        super().__init__()
        plan = [
            (3, 16, 2),
            (16, 32, 2),
            (32, 32, 1),
            (32, 64, 2),
            (64, 64, 1),
            (64, 128, 2),
            (128, 128, 1),
            (128, 128, 1),
        ]
        layers = [
            nn.Sequential(
                nn.Conv2d(i, o, 3, s, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU(inplace=True)
            )
            for i, o, s in plan
        ]
        self.fine, self.coarse = nn.Sequential(*layers[:5]), nn.Sequential(*layers[5:])

    def forward(self, x):
        fine = self.fine(x)  # (B, 64, H/8, W/8)
        return fine, self.coarse(fine)


class DetectionModule(nn.Module):
    """One of M1, M2, M3 (SSH Fig. 3 and 4): a 3x3 path beside a context path that sees 5x5 and 7x7.

    x (B, channels, h, w) -> class logits (B, h w 2, 2), box shifts (B, h w 2, 4); two anchors a cell.
    """

    def __init__(self, channels, width):
        super().__init__()
        half = width // 2
        self.a = nn.Conv2d(channels, width, 3, padding=1)
        self.r = nn.Conv2d(channels, half, 3, padding=1)
        self.b = nn.Conv2d(half, half, 3, padding=1)
        self.c1, self.c2 = nn.Conv2d(half, half, 3, padding=1), nn.Conv2d(half, half, 3, padding=1)
        self.score, self.box = nn.Conv2d(2 * width, 4, 1), nn.Conv2d(2 * width, 8, 1)

    def forward(self, x):
        r = F.relu(self.r(x))
        x = F.relu(
            torch.cat([self.a(x), self.b(r), self.c2(F.relu(self.c1(r)))], 1)
        )  # (B, 2 width, h, w)
        by_anchor = [out.permute(0, 2, 3, 1).flatten(1) for out in (self.score(x), self.box(x))]
        return by_anchor[0].unflatten(1, (-1, 2)), by_anchor[1].unflatten(1, (-1, 4))


class SSH(nn.Module):
    """The detector. body: "light" or "vgg16". `find` for frames; `forward` and `ssh_loss` for training."""

    def __init__(self, body="light"):
        super().__init__()
        if body not in WIDTHS:
            raise ValueError(f"body is {body!r}; choose one of {sorted(WIDTHS)}")
        self.kind, (fine, coarse, first, other) = body, WIDTHS[body]
        self.fine, self.coarse = nn.Conv2d(fine, first, 1), nn.Conv2d(coarse, first, 1)
        self.join = nn.Conv2d(first, first, 3, padding=1)
        self.m1 = DetectionModule(first, first)
        self.m2, self.m3 = DetectionModule(coarse, other), DetectionModule(coarse, other)
        for name, layer in self.named_modules():  # before the body is there: new layers only
            if isinstance(layer, nn.Conv2d):
                nn.init.zeros_(layer.bias)
                if body == "vgg16" or name.endswith(("score", "box")):
                    nn.init.normal_(layer.weight, 0, 0.01)  # SSH
                else:
                    nn.init.kaiming_normal_(layer.weight)  # ours: from scratch, 0.01 would stall
        self.body = VGGBody() if body == "vgg16" else LightBody()

    @classmethod
    def load(cls, path=None):
        """An SSH from a file of `save`; without a path, the light weights that come with the package."""
        path = Path(path or Path(__file__).parent / "weights" / "ssh_light.pt")
        if not path.is_file():
            raise ValueError(
                f"no SSH weights at {path}; train them: python -m ppad.ssh --train DATA --out {path}"
            )
        held = torch.load(path, map_location="cpu", weights_only=True)
        model = cls(held["body"]).eval()
        model.load_state_dict(held["weights"])
        return model

    def save(self, path):
        """Write body name and weights; to a temporary name first, so that a file is never half there."""
        part = Path(f"{path}.part")
        torch.save(
            {"body": self.kind, "weights": {k: v.cpu() for k, v in self.state_dict().items()}}, part
        )
        part.replace(path)

    def load_imagenet(self, state):
        """Start the VGG body from torchvision's `vgg16` state dict. Those weights expect RGB, (x / 255 - mean) / std; SSH's
        pictures are BGR minus a mean. Both are linear: the first convolution takes up the difference (edges excepted)."""
        if self.kind != "vgg16":
            raise ValueError(f"body is {self.kind!r}; ImageNet weights fit body 'vgg16' only")
        own = {k: v.clone() for k, v in state.items() if k.startswith("features.")}
        mean, std = (
            torch.tensor([0.485, 0.456, 0.406]),
            torch.tensor([0.229, 0.224, 0.225]),
        )  # torchvision
        weight, offset = own["features.0.weight"], (torch.tensor(MEAN_BGR[::-1]) / 255 - mean) / std
        own["features.0.bias"] += (weight * offset[:, None, None]).sum((1, 2, 3))
        own["features.0.weight"] = (weight / (255 * std)[:, None, None]).flip(1)
        self.body.load_state_dict(own)

    def forward(self, frames):
        """frames (B, H, W, 3) uint8 RGB -> logits (B, N, 2) not face/face, shifts (B, N, 4), for `anchors_for`."""
        x = (
            frames.flip(3).permute(0, 3, 1, 2)
            - torch.tensor(MEAN_BGR, device=frames.device)[:, None, None]
        )  # (B, 3, H, W) BGR
        x = F.pad(
            x, (0, -x.shape[3] % STRIDES[-1], 0, -x.shape[2] % STRIDES[-1])
        )  # zero = the mean colour
        fine, coarse = self.body(x)
        up = F.interpolate(
            F.relu(self.coarse(coarse)), scale_factor=2, mode="bilinear", align_corners=False
        )
        first = F.relu(self.join(F.relu(self.fine(fine)) + up))  # (B, first, H/8, W/8)
        outs = [self.m1(first), self.m2(coarse), self.m3(F.max_pool2d(coarse, 2))]
        return torch.cat([o[0] for o in outs], 1), torch.cat([o[1] for o in outs], 1)

    @torch.inference_mode()
    def find(self, frames, score=TEST_SCORE):
        """Faces in frames of one size, (B, H, W, 3) uint8 RGB, tensor or array. Returns a list of B dicts, best face first:
        boxes (k, 4) xyxy px inside the frame, scores (k,) in [score, 1]. ValueError when frames are something else."""
        frames = torch.from_numpy(np.array(frames)) if isinstance(frames, np.ndarray) else frames
        if (
            not torch.is_tensor(frames)
            or frames.dtype != torch.uint8
            or frames.shape[3:] != (3,)
            or 0 in frames.shape[1:3]
        ):
            raise ValueError("frames: give (B, H, W, 3) uint8 RGB, all of one size, not empty")
        (height, width), was_training, found = frames.shape[1:3], self.training, []
        self.eval()
        budget = PIXELS_AT_ONCE.get(self.fine.weight.device.type, PIXELS_AT_ONCE["cpu"])
        for part in frames.split(max(1, budget // (height * width))):
            logits, shifts = self(part.to(self.fine.weight.device))
            sure, anchors = (
                logits.softmax(2)[..., 1],
                anchors_for(height, width)[0].to(logits.device),
            )
            frame, place = (sure > score).nonzero(as_tuple=True)
            boxes = clip_boxes_to_image(
                shifted(anchors[place], shifts[frame, place]), (height, width)
            )
            sure = sure[frame, place]
            keep = batched_nms(boxes, sure, frame, TEST_NMS)
            kept = [keep[frame[keep] == i] for i in range(len(part))]
            found += [{"boxes": boxes[mine], "scores": sure[mine]} for mine in kept]
        self.train(was_training)
        return found


def anchors_for(height, width):
    """All anchors of a frame: xyxy px (N, 4), and the module (0, 1, 2) each belongs to (N,), in the order of the network's
    outputs: module, row, column, size. The grids cover the frame padded to 32 px."""
    boxes, modules = [], []
    for module, (stride, sides) in enumerate(zip(STRIDES, ANCHORS)):
        rows, cols = (-(-n // STRIDES[-1]) * STRIDES[-1] // stride for n in (height, width))
        y, x = torch.meshgrid(
            (torch.arange(rows) + 0.5) * stride, (torch.arange(cols) + 0.5) * stride, indexing="ij"
        )
        centre = torch.stack([x, y], 2)[:, :, None]  # (rows, cols, 1, 2)
        half = torch.tensor(sides, dtype=torch.float)[:, None] / 2  # (2, 1)
        boxes.append(torch.cat([centre - half, centre + half], 3).view(-1, 4))  # (rows cols 2, 4)
        modules.append(torch.full((len(boxes[-1]),), module))
    return torch.cat(boxes), torch.cat(modules)


def shifted(anchors, shifts):
    """Anchors (N, 4) moved by (N, 4): centre in anchor sides, log of width and height (Faster R-CNN's coding)."""
    size = anchors[:, 2:] - anchors[:, :2]
    centre = anchors[:, :2] + size / 2 + shifts[:, :2] * size
    half = size * shifts[:, 2:].clamp(max=LARGEST_LOG).exp() / 2
    return torch.cat([centre - half, centre + half], 1)


def shifts_to(anchors, boxes):
    """The shifts (N, 4) that move anchors (N, 4) onto boxes (N, 4); the inverse of `shifted`."""
    size, wanted = anchors[:, 2:] - anchors[:, :2], boxes[:, 2:] - boxes[:, :2]
    centre = (boxes[:, :2] + boxes[:, 2:] - anchors[:, :2] - anchors[:, 2:]) / 2 / size
    return torch.cat([centre, (wanted / size).log()], 1)


def labelled(anchors, boxes):
    """Which anchors are faces: labels (N,) 1 positive, 0 negative, -1 ignored; and each anchor's best box (N,)."""
    if not len(boxes):
        return torch.zeros(2, len(anchors), dtype=torch.long, device=anchors.device).unbind()
    iou = box_iou(anchors, boxes)  # (N, k)
    best, which = iou.max(1)
    labels = torch.where(best >= POSITIVE, 1, torch.where(best < NEGATIVE, 0, -1))
    favourite = iou.argmax(0)  # (k,)
    labels[favourite], which[favourite] = 1, torch.arange(len(boxes), device=boxes.device)
    return labels, which


def mined(labels, face_score):
    """Hard example mining of one module: the 64 positives scored lowest, and negatives scored highest up to 256 -> indices."""
    positive, negative = (labels == 1).nonzero()[:, 0], (labels == 0).nonzero()[:, 0]
    positive = positive[face_score[positive].argsort()[:MINED_POSITIVE]]
    negative = negative[face_score[negative].argsort(descending=True)[: MINED - len(positive)]]
    return positive, negative


def ssh_loss(logits, shifts, anchors, modules, boxes):
    """SSH's training loss (its Eq. 1): per module, cross-entropy on mined anchors + smooth L1 on mined positives.

    logits (B, N, 2), shifts (B, N, 4), anchors (N, 4), modules (N,), boxes: list of B tensors (k, 4), k may be 0.
    Returns a scalar: modules summed, pictures averaged.
    """
    total = logits.sum() * 0
    for logit, shift, wanted in zip(logits, shifts, boxes):
        labels, which = labelled(anchors, wanted)
        for module in range(len(STRIDES)):
            mine = (modules == module).nonzero()[:, 0]
            positive, negative = (
                mine[i] for i in mined(labels[mine], logit.detach()[mine].softmax(1)[:, 1])
            )
            chosen = torch.cat([positive, negative])
            total = total + F.cross_entropy(logit[chosen], labels[chosen])
            if len(positive):
                target = shifts_to(anchors[positive], wanted[which[positive]])
                total = total + F.smooth_l1_loss(
                    shift[positive], target, reduction="sum", beta=SMOOTH_L1_BETA
                ) / len(positive)
    return total / len(boxes)


# ---- training the light form (all choices ours)


def read_boxes(path):
    """Face table (.csv or .tsv: file, score, x_min, y_min, x_max, y_max, ...) -> {file: boxes (k, 4)}."""
    found = {}
    with open(path, newline="", encoding="utf-8") as f:
        for row in csv.DictReader(f, delimiter="\t" if path.suffix == ".tsv" else ","):
            if row["score"] != "NONE":
                found.setdefault(row["file"], []).append(
                    [float(row[k]) for k in ("x_min", "y_min", "x_max", "y_max")]
                )
    return {name: np.array(boxes, np.float32) for name, boxes in found.items()}


class Scenes:
    """Draws training frames: an action still, up to three face pictures pasted over it, all rescaled and recoloured.

    data: a folder with photo_pack/ and lfw/. Kept out for testing: stills of the official test split, and every LFW
    person in photo_pack/faces/test. Stills in which nobody was found serve as negatives.
    """

    def __init__(self, data):
        pack, lfw = Path(data) / "photo_pack", Path(data) / "lfw"
        for need in (
            pack / "actions" / "annotations.csv",
            pack / "actions" / "faces.csv",
            lfw / "landmarks.tsv",
        ):
            if not need.is_file():
                raise ValueError(
                    f"data: {need} is missing; give the folder that holds photo_pack/ and lfw/"
                )
        boxes, none = read_boxes(pack / "actions" / "faces.csv"), np.zeros((0, 4), np.float32)
        with open(pack / "actions" / "annotations.csv", newline="", encoding="utf-8") as f:
            self.stills = [
                (pack / "actions" / row["file"], boxes.get(row["file"], none))
                for row in csv.DictReader(f)
                if row["split"] == "train"
            ]
        kept_out = {p.parent.name for p in (pack / "faces" / "test").rglob("*.*")}
        self.faces = [
            (lfw / "lfw-deepfunneled" / name, b[:1])
            for name, b in read_boxes(lfw / "landmarks.tsv").items()
            if name.split("/")[0] not in kept_out
        ]
        box = 80 + 50 * np.array(
            [[-0.75, -1, 0.75, 1]], np.float32
        )  # 160 / 1.6 high, as wide as LFW's median box
        self.faces += [(path, box) for path in sorted((pack / "faces" / "train").rglob("*.webp"))]

    def __call__(self, rng, size):
        """One frame (size, size, 3) uint8 and its boxes (k, 4) px."""
        path, boxes = self.stills[rng.integers(len(self.stills))]
        canvas, still = Image.new("RGB", (size, size)), decoded(path)
        cover = size / min(still.size) * rng.uniform(1, 2)
        corner = [-rng.uniform(0, side * cover - size) for side in still.size]
        boxes = pasted(canvas, still, cover, corner, boxes, boxes[:0])
        for _ in range(rng.integers(4)):
            path, box = self.faces[rng.integers(len(self.faces))]
            picture = decoded(path)
            around = rng.uniform(0.1, 0.5) * (
                box[0, 3] - box[0, 1]
            )  # more would show neighbours' faces
            scale = np.exp(rng.uniform(np.log(12), np.log(0.9 * size))) / (box[0, 3] - box[0, 1])
            room = (
                np.stack([box[0, :2] - around, box[0, 2:] + around])
                .clip(0, picture.size)
                .astype(int)
            )
            picture, box = picture.crop(room.flatten().tolist()), box - np.tile(room[0], 2)
            corner = (
                rng.uniform(0, size, 2) - (box[0, :2] + box[0, 2:]) / 2 * scale
            )  # face centre anywhere
            boxes = pasted(canvas, picture, scale, corner, box, boxes)
        frame = np.asarray(canvas, np.float32)
        if rng.random() < 0.5:
            frame, boxes = (
                frame[:, ::-1],
                np.stack([size - boxes[:, 2], boxes[:, 1], size - boxes[:, 0], boxes[:, 3]], 1),
            )
        frame = (
            frame.mean(2, keepdims=True) if rng.random() < 0.1 else frame
        )  # grey; the next line's colours widen it
        frame = (
            (frame - 127.5) * rng.uniform(0.6, 1.3)
            + 127.5
            + rng.uniform(-40, 40)
            + rng.uniform(-15, 15, 3)
        )
        return frame.clip(0, 255).astype(np.uint8), boxes


@functools.lru_cache(maxsize=4096)  # at most 800 MB, for decoding takes longer than all else here
def decoded(path):
    return Image.open(path).convert("RGB")


def pasted(canvas, picture, scale, corner, new, old):
    """Paste a rescaled picture into `canvas` at `corner` (x, y), unless it would hide a part of a face in `old`.
    Returns the faces then in view: of `new` ones those with two fifths inside the canvas, cut to it."""
    size, corner = canvas.size[0], np.round(corner).astype(int)
    wide, tall = (max(1, round(side * scale)) for side in picture.size)
    new, patch = new * scale + np.tile(corner, 2), np.array([*corner, *(corner + (wide, tall))])
    hidden = inside(old, patch)
    if ((hidden > 0.1) & (hidden < 1)).any():
        return old
    canvas.paste(picture.resize((wide, tall), Image.Resampling.BILINEAR), tuple(corner.tolist()))
    new = new[inside(new, np.array([0, 0, size, size])) > 0.4].clip(0, size)
    return np.concatenate([old[hidden < 1], new]).astype(np.float32)


def inside(boxes, window):
    """Share of each box (k, 4) that lies in window (4,) -> (k,)."""
    low, high = np.maximum(boxes[:, :2], window[:2]), np.minimum(boxes[:, 2:], window[2:])
    return (high - low).clip(0).prod(1) / (boxes[:, 2:] - boxes[:, :2]).prod(1)


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
    """Train a light SSH from scratch: Adam, the rate rising over the first 5 % and falling as a cosine.

    draw(rng, size) -> frame (size, size, 3) uint8, boxes (k, 4) px, of a NumPy generator. The rate reaches 0 at `steps`
    or `minutes`, whichever is sooner. bfloat16: convolve in it. keep(model): called every 250 steps and at the end.
    Returns the SSH in evaluation mode. ValueError when the loss is no longer a number.
    """
    torch.manual_seed(seed)
    rng, model = (
        np.random.default_rng(seed),
        SSH("light").to(device, memory_format=torch.channels_last).train(),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr)
    anchors, modules = (t.to(device) for t in anchors_for(size, size))
    step, start = 0, time.monotonic()
    while (done := max(step / steps, (time.monotonic() - start) / 60 / minutes)) < 1:
        optimizer.param_groups[0]["lr"] = (
            lr * min(1, 0.01 + done / 0.05) * (1 + math.cos(math.pi * done)) / 2
        )
        frames, boxes = zip(*(draw(rng, size) for _ in range(batch)))
        frames = torch.from_numpy(np.stack(frames)).to(device)
        boxes = [torch.as_tensor(b, dtype=torch.float, device=device).view(-1, 4) for b in boxes]
        with torch.autocast(frames.device.type, torch.bfloat16, enabled=bfloat16):
            logits, shifts = model(frames)
        loss = ssh_loss(logits.float(), shifts.float(), anchors, modules, boxes)
        if not torch.isfinite(loss):
            raise ValueError(
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


def main():
    parser = argparse.ArgumentParser(prog="python -m ppad.ssh", description="Train the light SSH.")
    parser.add_argument(
        "--train", required=True, metavar="DATA", help="folder that holds photo_pack/ and lfw/"
    )
    parser.add_argument("--out", type=Path, default=Path("ssh_light.pt"))
    for name, value in (
        ("steps", 12000),
        ("batch", 8),
        ("size", 192),
        ("lr", 2e-3),
        ("seed", 0),
        ("minutes", math.inf),
    ):
        parser.add_argument(f"--{name}", type=type(value), default=value, help=f"default {value}")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--bfloat16", action="store_true", help="quicker where the chip knows it")
    args = vars(parser.parse_args())
    data, out = args.pop("train"), args.pop("out")
    train_light(
        Scenes(data), **args, keep=lambda model: copy.deepcopy(model).cpu().half().save(out)
    )


if __name__ == "__main__":
    main()
