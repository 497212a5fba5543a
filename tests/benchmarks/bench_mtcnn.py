"""How well and how fast `ppad.mtcnn` finds faces; writes JSON.

    python tests/benchmarks/bench_mtcnn.py DATA --out mtcnn.json [--reference-python PATH] [--threads 1]

DATA holds lfw/ (lfw-deepfunneled/, landmarks.tsv) and photo_pack/actions/ (faces.csv), whose tables were made with
the same weights, and weights/ (or $PPAD_WEIGHTS is set). Measured: on every 13th LFW picture, share found, box IoU,
landmark error; on all action stills, recall of faces.csv at IoU 0.5 and faces that the table does not have (that table
reaches down to faces of 12 px, so `min_face` is 12 there; the figures at the default 20 stand beside it); pictures a second, one by one and in batches, from decoded arrays. `--reference-python` is the interpreter of an environment with
facenet-pytorch==2.6.0: it times that package on the same pictures with as many threads, and ratios are added.
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
PASSES = 3        # the quickest of three: the machine may be shared


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
            find_batch(pictures[i:i + BATCH])
        together = min(together, time.perf_counter() - start)
    return {"one_by_one": round(len(pictures) / alone, 2), "batched": round(len(pictures) / together, 2)}


def load(root, names):
    import numpy as np
    from PIL import Image
    return [np.asarray(Image.open(root / name).convert("RGB")) for name in names]


def timed_pictures(data):
    names = list(read_table(data / "lfw" / "landmarks.tsv", "\t"))[::53]
    return load(data / "lfw" / "lfw-deepfunneled", names)          # 250 pictures of 250x250


def time_reference(data, threads):
    """Runs inside the other package's environment: prints its speed as JSON."""
    import numpy as np
    import torch
    from facenet_pytorch import MTCNN
    torch.set_num_threads(threads)
    model = MTCNN(keep_all=True)
    speed = pictures_per_second(lambda p: model.detect(p, landmarks=True),
                                lambda ps: model.detect(np.stack(ps), landmarks=True), timed_pictures(data))
    print(json.dumps({**speed, "torch": torch.__version__}))


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
    found, ious, errors = 0, [], []
    for picture, name in zip(load(data / "lfw" / "lfw-deepfunneled", names), names):
        answer, (_, box, points) = model.find(picture[None])[0], lfw[name][0]
        iou = box_iou(answer["boxes"], torch.tensor([box]))[:, 0]
        if len(iou) and iou.max() >= 0.5:
            found += 1
            ious.append(float(iou.max()))
            off = answer["landmarks"][iou.argmax()] - torch.tensor(points).view(5, 2)
            errors += off.norm(dim=1).tolist()
    speed = pictures_per_second(lambda p: model.find(p[None]), lambda ps: model.find(np.stack(ps)),
                                timed_pictures(data))
    by_size = {f"min_face_{px}": measure_actions(MTCNN.load(folder, MTCNNConfig(min_face=px)), data) for px in (12, 20)}
    return {
        "lfw": {"pictures": len(names), "found": found, "found_share": found / len(names),
                "median_box_iou": float(np.median(ious)), "median_landmark_error_px": float(np.median(errors))},
        "actions": by_size, "pictures_per_second": speed, "threads": threads, "torch": torch.__version__,
        "machine": {"platform": platform.platform(), "cores": os.cpu_count()},
    }


def measure_actions(model, data):
    """Recall of faces.csv at IoU 0.5 on every action still, and the faces that it lacks."""
    import torch
    from torchvision.ops import box_iou
    actions = read_table(data / "photo_pack" / "actions" / "faces.csv", ",")
    root = data / "photo_pack" / "actions"
    with open(root / "annotations.csv", newline="", encoding="utf-8") as f:
        stills = [row["file"] for row in csv.DictReader(f)]
    hit = total = extra = sure_extra = 0
    for name in stills:
        answer = model.find(load(root, [name])[0][None])[0]
        wanted = torch.tensor([box for _, box, _ in actions.get(name, [])]).view(-1, 4)
        iou = box_iou(answer["boxes"], wanted)
        hit += int((iou >= 0.5).any(0).sum()) if len(iou) else 0
        total += len(wanted)
        lone = ~(iou >= 0.5).any(1)
        extra += int(lone.sum())
        sure_extra += int((lone & (answer["scores"] > 0.9)).sum())      # the table keeps scores above 0.9 only
    return {"stills": len(stills), "faces_in_table": total, "recall": hit / total,
            "extra_faces": extra, "extra_faces_over_0.9": sure_extra}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("mtcnn.json"))
    parser.add_argument("--reference-python", help="interpreter of an environment with facenet-pytorch==2.6.0")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--time-reference", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.time_reference:
        return time_reference(args.data, args.threads)
    result = measure(args.data, args.threads)
    if args.reference_python:
        command = [args.reference_python, __file__, str(args.data), "--time-reference", "--threads", str(args.threads)]
        answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        result["facenet_pytorch_2.6.0"] = json.loads(answer.strip().splitlines()[-1])
        result["ratio"] = {key: round(value / result["facenet_pytorch_2.6.0"][key], 2)
                           for key, value in result["pictures_per_second"].items()}
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
