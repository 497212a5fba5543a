"""How many faces the light SSH finds, alone, in pictures it was not trained on; writes JSON.

    python tests/benchmarks/bench_ssh.py DATA --out ssh.json \
        [--weights ssh_light.pt] [--every 1] [--threads 1]

DATA holds lfw/ (lfw-deepfunneled/, landmarks.tsv) and photo_pack/ (actions/, faces/test/). Without
them it says so in one line and writes nothing. Measured on the action stills of the official test
split, whose truth is faces.csv, and on 1,000 LFW pictures of people of photo_pack/faces/test, whose
truth is landmarks.tsv. Both tables are MTCNN's answers, not a person's: a face that MTCNN missed
counts as a false one here, and LFW's table has one face a picture, so that a bystander counts as a
false one too. A found box is right when it has IoU >= 0.5 with a face of the table that no surer
box has taken. Recall counts faces whose longer side is over 24 px; a right box on a smaller one is
no error. `--every 5` looks at a fifth.
"""

import argparse
import csv
import json
import os
import platform
import random
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from torchvision.ops import box_iou

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "data_scripts")]
from train_ssh import Scenes, read_boxes

from ppad.ssh import SSH

THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9)
LEAST_SIDE = 24  # px
SAME = 0.5  # IoU
PICTURES = 1000  # of LFW


def is_right(boxes, truth):
    """For each of the boxes (k, 4), best first, the face of truth (n, 4) it takes, or -1."""
    taken = set()
    answer = []
    iou = box_iou(boxes, truth)
    for row in iou:
        order = [
            j for j in row.argsort(descending=True).tolist() if row[j] >= SAME and j not in taken
        ]
        answer.append(order[0] if order else -1)
        taken.update(order[:1])
    return answer


def measure(model, pictures):
    """pictures: list of (path, truth (n, 4)) -> recall and precision at each threshold."""
    sizes = []
    scores = []
    right = []
    faces = 0
    seconds = 0.0
    for path, truth in pictures:
        frame = np.array(Image.open(path).convert("RGB"))[None]
        start = time.perf_counter()
        found = model.find(frame, score=THRESHOLDS[0])[0]
        seconds += time.perf_counter() - start
        truth = torch.as_tensor(np.asarray(truth, np.float32)).view(-1, 4)
        large = ((truth[:, 2:] - truth[:, :2]).amax(1) > LEAST_SIDE).tolist()
        faces += sum(large)
        for score, which in zip(found["scores"].tolist(), is_right(found["boxes"], truth)):
            scores.append(score)
            right.append(which >= 0)
            sizes.append(which >= 0 and large[which])
    scores = np.array(scores)
    right = np.array(right, bool)
    sizes = np.array(sizes, bool)
    table = {}
    for threshold in THRESHOLDS:
        kept = scores > threshold
        table[str(threshold)] = {
            "recall": round(float((kept & sizes).sum() / faces), 4),
            "precision": round(float((kept & right).sum() / max(1, kept.sum())), 4),
            "false_boxes": int((kept & ~right).sum()),
        }
    return {
        "pictures": len(pictures),
        "faces_over_24_px": faces,
        "pictures_per_second": round(len(pictures) / seconds, 1),
        "by_threshold": table,
    }


def test_pictures(data):
    """(stills, LFW pictures), each a list of (path, truth); ValueError where one of them was
    trained on.
    """
    pack = data / "photo_pack"
    lfw = data / "lfw"
    boxes = read_boxes(pack / "actions" / "faces.csv")
    with open(pack / "actions" / "annotations.csv", newline="", encoding="utf-8") as f:
        names = sorted({row["file"] for row in csv.DictReader(f) if row["split"] == "test"})
    stills = [(pack / "actions" / name, boxes.get(name, [])) for name in names]
    boxes = read_boxes(lfw / "landmarks.tsv")
    names = sorted(
        f"{p.parent.name}/{p.stem}.jpg" for p in (pack / "faces" / "test").rglob("*.webp")
    )
    names = random.Random(0).sample([name for name in names if name in boxes], PICTURES)
    portraits = [(lfw / "lfw-deepfunneled" / name, boxes[name]) for name in sorted(names)]
    scenes = Scenes(data)
    people = {path.parent.name for path, _ in portraits} & {
        path.parent.name for path, _ in scenes.faces
    }
    if people or {path for path, _ in stills} & {path for path, _ in scenes.stills}:
        raise ValueError(
            f"data: test pictures are trained on, of {sorted(people)[:3]}...; "
            "keep them out of `Scenes`"
        )
    return stills, portraits


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("ssh.json"))
    parser.add_argument("--weights", type=Path, help="default: those of the package")
    parser.add_argument(
        "--every", type=int, default=1, help="look at every so many-th picture only"
    )
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    for need in (
        "photo_pack/actions/faces.csv",
        "photo_pack/faces/test",
        "lfw/landmarks.tsv",
        "lfw/lfw-deepfunneled",
    ):
        if not (args.data / need).exists():
            print(f"skipped: {args.data / need} is missing; give the folder that holds both")
            return
    torch.set_num_threads(args.threads)
    model = SSH.load(args.weights)
    stills, portraits = (pictures[:: args.every] for pictures in test_pictures(args.data))
    result = {
        "stills": measure(model, stills),
        "lfw": measure(model, portraits),
        "parameters": sum(p.numel() for p in model.parameters()),
        "threads": args.threads,
        "every": args.every,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "machine": {
            "platform": platform.platform(),
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
        },
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
