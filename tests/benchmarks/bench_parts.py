"""Four parts of ppad and what one would use instead: same work, same answers, times and ratio.

    python tests/benchmarks/bench_parts.py --out parts.json [--with-python PATH] [--small]
        [--repeats 5] [--threads 1] [--note WORDS]

    crop          crop, align and paste all faces at once, forward and backward, against one face
                  at a time: small crops; several faces per frame (`crop_crowd`); the sizes of two
                  presets (`crop_toy`, `crop_photo`)
    slic          baselines.SuperPixel.segment against scikit-image's slic, as many segments;
                  boundary recall on drawn regions
    map           metrics.frame_map against pycocotools' COCOeval (IoU 0.5)
    verification  metrics.auc, eer and tar_at_far against scikit-learn's ROC curve

`--with-python` is the interpreter of an environment with numpy and any of scikit-image,
pycocotools, scikit-learn; a part whose package is missing is left out, and a line says so. Both
sides get the same arrays, from a file. Times are medians of `--repeats` calls after a first one;
what a package needs to build beforehand (COCO's index) is not counted. A ratio above 1 means that
ours is so many times faster.

COCOeval reads precision at 101 recalls; ours is the whole area (VOC 2010). COCOeval gives the same
area when its recalls are k / n for a class with n truths, which is how the answers are compared
(not counted in its time).
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
CLASSES = 10
GRID = 8  # baselines.SuperPixel: cells a side
# scikit-image's own defaults, for both.
COMPACTNESS = 10
ROUNDS = 10
SEED = 0


def median_seconds(work, repeats):
    """(median seconds, the last answer) of `work()` after one unmeasured call."""
    times = []
    answer = work()
    for _ in range(repeats):
        began = time.perf_counter()
        answer = work()
        times.append(time.perf_counter() - began)
    return statistics.median(times), answer


# ---------------------------------------------------------------- the work


def drawn_regions(count, size, rng):
    """Pictures (n, S, S, 3) in [0, 1] of noisy flat regions around random points, and the regions
    (n, S, S).
    """
    y, x = np.mgrid[:size, :size]
    pictures = []
    regions = []
    for _ in range(count):
        points = rng.uniform(0, size, (12, 2))
        region = ((y[..., None] - points[:, 0]) ** 2 + (x[..., None] - points[:, 1]) ** 2).argmin(
            -1
        )
        pictures.append(
            np.clip(rng.uniform(0, 1, (12, 3))[region] + rng.normal(0, 0.05, (size, size, 3)), 0, 1)
        )
        regions.append(region)
    return np.array(pictures, np.float32), np.array(regions)


def borders(labels):
    """Pixels (n, S, S) whose right or lower neighbor has another label."""
    edge = np.zeros(labels.shape, bool)
    edge[:, :, :-1] |= labels[:, :, :-1] != labels[:, :, 1:]
    edge[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    return edge


def boundary_recall(labels, regions, reach=2):
    """Share of the regions' borders with a border of the labels within `reach` pixels (a square),
    in [0, 1].
    """
    wanted = borders(regions)
    found = borders(labels)
    near = np.zeros_like(found)
    size = found.shape[1]
    padded = np.pad(found, ((0, 0), (reach, reach), (reach, reach)))
    for dy in range(2 * reach + 1):
        for dx in range(2 * reach + 1):
            near |= padded[:, dy : dy + size, dx : dx + size]
    return float((near & wanted).sum() / wanted.sum())


def make_work(small):
    """Arrays of all parts but the first, by name."""
    rng = np.random.default_rng(SEED)
    pictures, regions = drawn_regions(4 if small else 32, 64 if small else 128, rng)
    frames, each = (200, 5) if small else (2000, 10)
    corner = rng.uniform(0, 200, (frames, 3, 2))
    side = rng.uniform(30, 100, (frames, 3, 2))
    truth = np.concatenate([corner, corner + side], -1)  # (frames, 3, 4)
    labels = rng.integers(1, CLASSES + 1, (frames, 3))
    which = rng.integers(0, 3, (frames, each))
    found = np.take_along_axis(truth, which[..., None], 1) + rng.normal(0, 12, (frames, each, 4))
    found[..., 2:] = np.maximum(found[..., 2:], found[..., :2] + 1)
    named = np.where(
        rng.random((frames, each)) < 0.7,
        np.take_along_axis(labels, which, 1),
        rng.integers(1, CLASSES + 1, (frames, each)),
    )
    pairs = 6000 if small else 200_000
    same = rng.random(pairs) < 0.5
    return {
        "pictures": pictures,
        "regions": regions,
        "truth": truth.astype(np.float32),
        "labels": labels,
        "found": found.astype(np.float32),
        "named": named,
        "scores": rng.random((frames, each)),
        "similarity": np.round(rng.normal(0, 1, pairs) + 1.5 * same, 4),
        "same": same,
    }


# ------------------------------------------------------------------ the other packages


def other_slic(work, repeats):
    import skimage
    from skimage.segmentation import slic

    seconds, labels = median_seconds(
        lambda: np.stack(
            [
                slic(
                    picture,
                    n_segments=GRID**2,
                    compactness=COMPACTNESS,
                    max_num_iter=ROUNDS,
                    enforce_connectivity=False,
                )
                for picture in work["pictures"]
            ]
        ),
        repeats,
    )
    return {
        "package": f"scikit-image {skimage.__version__}",
        "seconds": seconds,
        "answer": {
            "boundary_recall": boundary_recall(labels, work["regions"]),
            "segments": float(np.mean([len(np.unique(one)) for one in labels])),
        },
    }


def other_map(work, repeats):
    import contextlib
    import importlib.metadata
    import io

    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def entries(boxes, labels, scores=None):
        made = []
        for (frame, k), label in np.ndenumerate(labels):
            x0, y0, x1, y1 = boxes[frame, k].tolist()
            made.append(
                {
                    "id": len(made) + 1,
                    "image_id": frame,
                    "category_id": int(label),
                    "iscrowd": 0,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": (x1 - x0) * (y1 - y0),
                }
            )
            if scores is not None:
                made[-1]["score"] = float(scores[frame, k])
        return made

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "info": {},
            "images": [{"id": frame} for frame in range(len(work["truth"]))],
            "categories": [{"id": label} for label in range(1, CLASSES + 1)],
            "annotations": entries(work["truth"], work["labels"]),
        }
        truth.createIndex()
        judge = COCOeval(
            truth, truth.loadRes(entries(work["found"], work["named"], work["scores"])), "bbox"
        )
        judge.params.iouThrs = np.array([0.5])
        judge.params.maxDets = [1000]
        judge.params.areaRng = [[0, 1e10]]
        judge.params.areaRngLbl = ["all"]

        def evaluate():
            judge.evaluate()
            judge.accumulate()

        seconds, _ = median_seconds(evaluate, repeats)
        answer = {}
        for label in range(1, CLASSES + 1):
            count = int((work["labels"] == label).sum())
            judge.params.catIds = [label]
            judge.params.recThrs = np.arange(1, count + 1) / count
            judge.evaluate()
            judge.accumulate()
            answer[f"AP of class {label}"] = float(judge.eval["precision"].mean())
    return {
        "package": f"pycocotools {importlib.metadata.version('pycocotools')}",
        "seconds": seconds,
        "answer": answer,
    }


def other_verification(work, repeats):
    import sklearn
    from sklearn.metrics import roc_auc_score, roc_curve

    def evaluate():
        area = roc_auc_score(work["same"], work["similarity"])
        false, true, _ = roc_curve(work["same"], work["similarity"], drop_intermediate=False)
        gap = false - (1 - true)
        after = int(np.argmax(gap >= 0))
        share = -gap[after - 1] / (gap[after] - gap[after - 1])
        return {
            "auc": float(area),
            "eer": float(false[after - 1] + share * (false[after] - false[after - 1])),
            "tar_at_far_1e-3": float(true[false <= 1e-3].max()),
        }

    seconds, answer = median_seconds(evaluate, repeats)
    return {"package": f"scikit-learn {sklearn.__version__}", "seconds": seconds, "answer": answer}


OTHERS = {"slic": other_slic, "map": other_map, "verification": other_verification}


# ---------------------------------------------------------------- ours


def our_slic(work, repeats):
    import torch

    from ppad.baselines import SuperPixel

    painter = SuperPixel(GRID, COMPACTNESS, ROUNDS)
    # (n, 3, S, S)
    pictures = torch.tensor(work["pictures"]).permute(0, 3, 1, 2).contiguous() * 2 - 1
    seconds, labels = median_seconds(lambda: painter.segment(pictures), repeats)
    return {
        "seconds": seconds,
        "answer": {
            "boundary_recall": boundary_recall(labels.numpy(), work["regions"]),
            "segments": float(np.mean([len(one.unique()) for one in labels])),
        },
    }


def our_map(work, repeats):
    import torch

    from ppad.metrics import frame_map

    truths = [
        {"boxes": torch.tensor(boxes), "labels": torch.tensor(labels)}
        for boxes, labels in zip(work["truth"], work["labels"])
    ]
    found = [
        {
            "boxes": torch.tensor(boxes),
            "labels": torch.tensor(labels),
            "scores": torch.tensor(scores),
        }
        for boxes, labels, scores in zip(work["found"], work["named"], work["scores"])
    ]
    seconds, (_, each) = median_seconds(lambda: frame_map(found, truths, CLASSES), repeats)
    return {
        "seconds": seconds,
        "answer": {f"AP of class {label}": float(ap) for label, ap in enumerate(each, 1)},
    }


def our_verification(work, repeats):
    from ppad import metrics

    def evaluate():
        pairs = work["similarity"], work["same"]
        return {
            "auc": metrics.auc(*pairs),
            "eer": metrics.eer(*pairs),
            "tar_at_far_1e-3": metrics.tar_at_far(*pairs),
        }

    seconds, answer = median_seconds(evaluate, repeats)
    return {"seconds": seconds, "answer": answer}


# Faces, S, the frames' side, faces per frame; the last two as in the presets.
CROPS = {
    "crop": (16, 32, 96, 1),
    "crop_crowd": (16, 32, 96, 4),
    "crop_toy": (16, 64, 160, 1),
    "crop_photo": (8, 128, 320, 1),
}


def crop_against_loop(repeats, faces, size, side, each):
    """One step's cropping, aligning and pasting, against a loop over faces with the same functions.

    As in Algorithm 1: crops are cut for M; M's output (here random) is aligned for D and pasted for
    A, and gradients of both flow back to it. They are given, so that no loss over whole frames is
    timed.
    """
    import torch

    from ppad.crop_sampler import align_faces, crop_faces, paste_faces, recognizer_input

    torch.manual_seed(SEED)
    frames = 2 * torch.rand(faces // each, 3, side, side) - 1
    output = 2 * torch.rand(faces, 3, size, size) - 1
    corner = torch.rand(faces, 2) * side / 2
    extent = side / 8 + torch.rand(faces, 1) * side / 8
    boxes = list(torch.cat([corner, corner + extent], 1).view(-1, each, 4))  # one (each, 4) a frame
    points = size * (
        torch.tensor([[0.35, 0.4], [0.65, 0.4], [0.5, 0.58], [0.38, 0.75], [0.62, 0.75]])
        + 0.02 * torch.randn(faces, 5, 2)
    )
    shape = (size * 7 // 8, size * 3 // 4)
    from_detector = torch.randn_like(frames)
    from_recognizer = torch.randn(faces, 3, *shape)

    def play(modified, marks, before, over, where):
        return (
            crop_faces(before, where, size),
            recognizer_input(align_faces(modified, marks, shape)),
            paste_faces(over, modified, where),
        )

    def answers(modified, crops, aligned, pasted):
        back = torch.autograd.grad([aligned, pasted], [modified], [from_recognizer, from_detector])
        return crops, aligned.detach(), pasted.detach(), *back

    def together():
        modified = output.clone().requires_grad_()
        return answers(modified, *play(modified, points, frames, frames, boxes))

    def loop():
        modified = output.clone().requires_grad_()
        crops = []
        aligned = []
        pasted = []
        one_by_one = zip(modified.split(1), points.split(1))
        for before, of_frame in zip(frames.split(1), boxes):
            after = before
            for box, (face, marks) in zip(of_frame.split(1), one_by_one):
                crop, seen, after = play(face, marks, before, after, [box])
                crops.append(crop)
                aligned.append(seen)
            pasted.append(after)
        return answers(modified, torch.cat(crops), torch.cat(aligned), torch.cat(pasted))

    (ours, mine) = median_seconds(together, repeats)
    (theirs, other) = median_seconds(loop, repeats)
    return {
        "package": "a loop over faces, the same functions",
        "faces": faces,
        "faces_a_frame": each,
        "crop_size": size,
        "frame_size": side,
        "ms_ours": round(1000 * ours, 3),
        "ms_other": round(1000 * theirs, 3),
        "ratio": round(theirs / ours, 2),
        "largest_difference": max(float((a - b).abs().max()) for a, b in zip(mine, other)),
    }


# ---------------------------------------------------------------- both sides


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("parts.json"))
    parser.add_argument(
        "--with-python",
        help="interpreter of an environment with scikit-image, pycocotools, scikit-learn",
    )
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--note", default="", help="a word about the machine, for the JSON: 'shared', say"
    )
    parser.add_argument("--other", nargs=2, metavar=("PART", "FILE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.other:  # inside the other packages' environment
        part, path = args.other
        try:
            return print(json.dumps(OTHERS[part](dict(np.load(path)), args.repeats)))
        except ImportError as error:
            return print(json.dumps({"missing": error.name}))
    sys.path.insert(0, str(ROOT))
    import torch

    from ppad.optim import processor

    torch.set_num_threads(args.threads)
    result = {
        "device": "cpu",
        "scale": "small" if args.small else "full",
        "note": args.note,
        "repeats": args.repeats,
        "machine": {
            "platform": platform.platform(),
            "processor": processor(),
            "cores": os.cpu_count(),
            "threads": args.threads,
        },
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        **{name: crop_against_loop(args.repeats, *sizes) for name, sizes in CROPS.items()},
    }
    environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
    with tempfile.TemporaryDirectory() as place:
        work = make_work(args.small)
        path = Path(place) / "work.npz"
        np.savez(path, **work)
        for part, ours in (
            ("slic", our_slic),
            ("map", our_map),
            ("verification", our_verification),
        ):
            if not args.with_python:
                print(f"{part}: skipped, give --with-python", file=sys.stderr)
                continue
            command = [
                args.with_python,
                __file__,
                "--other",
                part,
                str(path),
                "--repeats",
                str(args.repeats),
            ]
            printed = subprocess.run(
                command, check=True, stdout=subprocess.PIPE, text=True, env=environment
            ).stdout
            other = json.loads(printed.strip().splitlines()[-1])
            if "missing" in other:
                print(
                    f"{part}: skipped, {args.with_python} has no {other['missing']}",
                    file=sys.stderr,
                )
                continue
            mine = ours(work, args.repeats)
            result[part] = {
                "package": other["package"],
                "ms_ours": round(1000 * mine["seconds"], 3),
                "ms_other": round(1000 * other["seconds"], 3),
                "ratio": round(other["seconds"] / mine["seconds"], 2),
                "ours": mine["answer"],
                "other": other["answer"],
                "largest_difference": max(
                    abs(mine["answer"][name] - value)
                    for name, value in other["answer"].items()
                    if name != "segments"
                ),
            }
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
