"""How well and how fast `ppad.mtcnn` finds faces; writes JSON.

    python tests/benchmarks/bench_mtcnn.py DATA --out mtcnn.json \
        [--reference-python PATH] [--threads 1]

DATA holds lfw/ (lfw-deepfunneled/, landmarks.tsv) and photo_pack/actions/ (faces.csv), whose tables
were made with the same weights, and weights/ (or $PPAD_WEIGHTS is set). Measured: on every 13th LFW
picture, share found, box IoU, landmark error; on all action stills, recall of faces.csv at IoU 0.5
and faces that the table does not have; pictures a second, one by one and in batches, from decoded
arrays. `--reference-python` is the interpreter of an environment with facenet-pytorch==2.6.0: it
times that package on the same pictures with as many threads, and ratios are added; its own recall
of faces.csv at `min_face` 20 stands beside ours.

faces.csv reaches down to faces of 9 px, which a finder of faces from 20 px on does not look
for, and it was made by a pyramid that starts at 12 px. So recall is reported for `min_face` 12,
which suits the table, and for the default 20; of all faces, of those of at least `min_face` px, and
by size (px, the square root of a box's area).
"""

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

BATCH = 32
SIZES = (0, 12, 16, 20, 24, 32, 64, 1000)  # px
PASSES = 3  # the quickest of three: the machine may be shared


def read_table(path, delimiter):
    """file -> list of (score, box (4,), landmarks (10,)) as floats, in file order."""
    table = {}
    with open(path, newline="", encoding="utf-8") as f:
        for row in csv.reader(f, delimiter=delimiter):
            if row[0] != "file" and row[1] != "NONE":
                values = [float(v) for v in row[1:]]
                table.setdefault(row[0], []).append((values[0], values[1:5], values[5:]))
    return table


def pictures_per_second(find_one, find_batch, pictures):
    """Quickest of PASSES over the same arrays, one by one and in batches of BATCH."""
    find_one(pictures[0])
    alone = together = float("inf")
    for _ in range(PASSES):
        start = time.perf_counter()
        for picture in pictures:
            find_one(picture)
        alone = min(alone, time.perf_counter() - start)
        start = time.perf_counter()
        for i in range(0, len(pictures), BATCH):
            find_batch(pictures[i : i + BATCH])
        together = min(together, time.perf_counter() - start)
    return {
        "one_by_one": round(len(pictures) / alone, 2),
        "batched": round(len(pictures) / together, 2),
    }


def load(root, names):
    import numpy as np
    from PIL import Image

    return [np.asarray(Image.open(root / name).convert("RGB")) for name in names]


def timed_pictures(data):
    names = list(read_table(data / "lfw" / "landmarks.tsv", "\t"))[::53]
    return load(data / "lfw" / "lfw-deepfunneled", names)  # 250 pictures of 250x250


def time_reference(data, threads):
    """Runs inside the other package's environment: prints its speed as JSON."""
    import numpy as np
    import torch
    from facenet_pytorch import MTCNN

    torch.set_num_threads(threads)
    model = MTCNN(keep_all=True)
    speed = pictures_per_second(
        lambda p: model.detect(p, landmarks=True),
        lambda ps: model.detect(np.stack(ps), landmarks=True),
        timed_pictures(data),
    )

    def find(picture):
        boxes, scores = model.detect(picture)
        boxes, scores = (np.zeros((0, 4)), np.zeros(0)) if boxes is None else (boxes, scores)
        return torch.tensor(np.asarray(boxes, np.float32)), torch.tensor(
            np.asarray(scores, np.float32)
        )

    model = MTCNN(keep_all=True, min_face_size=20)
    stills = measure_actions(find, 20, data)
    print(
        json.dumps(
            {
                "pictures_per_second": speed,
                "actions_min_face_20": stills,
                "torch": torch.__version__,
            }
        )
    )


def measure(data, threads):
    import numpy as np
    import torch
    from torchvision.ops import box_iou

    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from ppad.mtcnn import MTCNN, MTCNNConfig, weights_folder

    torch.set_num_threads(threads)
    folder = weights_folder() if (weights_folder() / "onet.pt").is_file() else data / "weights"
    model = MTCNN.load(folder)

    lfw = read_table(data / "lfw" / "landmarks.tsv", "\t")
    names = list(lfw)[::13][:1000]
    found = 0
    ious = []
    errors = []
    for picture, name in zip(load(data / "lfw" / "lfw-deepfunneled", names), names):
        answer = model.find(picture[None])[0]
        (_, box, points) = lfw[name][0]
        iou = box_iou(answer["boxes"], torch.tensor([box]))[:, 0]
        if len(iou) and iou.max() >= 0.5:
            found += 1
            ious.append(float(iou.max()))
            off = answer["landmarks"][iou.argmax()] - torch.tensor(points).view(5, 2)
            errors += off.norm(dim=1).tolist()
    speed = pictures_per_second(
        lambda p: model.find(p[None]), lambda ps: model.find(np.stack(ps)), timed_pictures(data)
    )
    stills = {}
    for px in (12, 20):
        model = MTCNN.load(folder, MTCNNConfig(min_face=px))

        def find(picture, model=model):
            answer = model.find(picture[None])[0]
            return answer["boxes"], answer["scores"]

        stills[f"min_face_{px}"] = measure_actions(find, px, data)
    return {
        "lfw": {
            "pictures": len(names),
            "found": found,
            "found_share": found / len(names),
            "median_box_iou": float(np.median(ious)),
            "median_landmark_error_px": float(np.median(errors)),
        },
        "actions": stills,
        "pictures_per_second": speed,
        "threads": threads,
        "torch": torch.__version__,
        "machine": {"platform": platform.platform(), "cores": os.cpu_count()},
    }


def measure_actions(find, min_face, data):
    """Recall of faces.csv at IoU 0.5 on every action still, and the faces that it lacks.
    find(picture) -> boxes, scores.
    """
    import torch
    from torchvision.ops import box_iou

    actions = read_table(data / "photo_pack" / "actions" / "faces.csv", ",")
    root = data / "photo_pack" / "actions"
    with open(root / "annotations.csv", newline="", encoding="utf-8") as f:
        stills = [row["file"] for row in csv.DictReader(f)]
    hits = []
    sizes = []
    extra = 0
    sure_extra = 0
    for name in stills:
        boxes, scores = find(load(root, [name])[0])
        wanted = torch.tensor([box for _, box, _ in actions.get(name, [])]).view(-1, 4)
        same = box_iou(boxes.float(), wanted) >= 0.5  # (found, wanted)
        hits += same.any(0).tolist()
        sizes += (wanted[:, 2:] - wanted[:, :2]).prod(1).sqrt().tolist()
        extra += int((~same.any(1)).sum())
        sure_extra += int(
            (~same.any(1) & (scores > 0.9)).sum()
        )  # the table keeps scores above 0.9 only

    def share(low, high):
        among = [hit for hit, size in zip(hits, sizes) if low <= size < high]
        return {"faces": len(among), "recall": round(sum(among) / len(among), 4)}

    return {
        "stills": len(stills),
        "faces_in_table": len(hits),
        "smallest_face_px": round(min(sizes), 1),
        "recall": sum(hits) / len(hits),
        "of_faces_from_min_face_on": share(min_face, SIZES[-1]),
        "by_size": {f"{low}-{high}": share(low, high) for low, high in zip(SIZES, SIZES[1:])},
        "extra_faces": extra,
        "extra_faces_over_0.9": sure_extra,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("mtcnn.json"))
    parser.add_argument(
        "--reference-python", help="interpreter of an environment with facenet-pytorch==2.6.0"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--time-reference", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.time_reference:
        return time_reference(args.data, args.threads)
    result = measure(args.data, args.threads)
    if args.reference_python:
        command = [
            args.reference_python,
            __file__,
            str(args.data),
            "--time-reference",
            "--threads",
            str(args.threads),
        ]
        answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        result["facenet_pytorch_2.6.0"] = json.loads(answer.strip().splitlines()[-1])
        result["ratio"] = {
            key: round(value / result["facenet_pytorch_2.6.0"]["pictures_per_second"][key], 2)
            for key, value in result["pictures_per_second"].items()
        }
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
