"""How steady `ppad.anonymize` is on real clips, and how fast the whole command is; writes JSON.

    python tests/benchmarks/bench_anonymize.py CLIPS --out anonymize.json \
        [--reference-python PATH] [--threads 2] [--loops 10]

CLIPS is a folder of movies, each with a face in view throughout; MTCNN's weights lie in
$PPAD_WEIGHTS. Each clip is searched by the command's own finder, set to miss little. Then it is
followed once with all detections, and by five seeds with 30 % of them dropped at random, of which
the worst is reported. What is followed is what the command would follow (SSH on some of the frames,
MTCNN on all); what must be covered is what both detectors together find on the originals, frame by
frame. A box is covered if every pixel of it is painted. Longest runs of frames with an uncovered
box, among

    face          the clip's person: all boxes, of any score, that overlap the face (IoU 0.3
                  with the nearest sure box of it)
    sure          all boxes of score above 0.95
    seen_around   boxes of any score, faces or not, that overlap a box kept in the frame before
                  and one in the frame after
    any           all boxes. Some are false and were found in one frame only: once dropped
                  nothing tells of them, so this one can be above 0; `uncovered` lists them
                  (frame, score, corners in px, seeds, share uncovered at most)

Flicker is the mean absolute change of the face's box edges from frame to frame (px), steady beside
per-frame detection; `painted` the share of the frame that is painted, steady and with 30 % dropped,
beside per-frame detection's (1.6 times its boxes). Speed: frames a second of the whole command,
start-up included, `--method blur`, on the first clip played `--loops` times over with a tone, as
H.264 in MP4. `--reference-python` is the interpreter of an environment with deface==1.5.0: its
command is timed in turn with ours on the same file with as many threads, sound kept, H.264 in MP4
out, and the ratio added. deface runs one network (CenterFace) on every frame by itself, by OpenCV
unless `onnx` and `onnxruntime` are installed besides; ours runs MTCNN on every frame and SSH on
`ssh_looks_a_second`, and follows the faces. Both encode with libx264 each at its own settings
(`deface` its default crf and preset; ours crf 20, veryfast). `cpu_seconds` is user + system time of
the whole command with its children, the least of its runs.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
DROPPED = 0.3
SEEDS = 5
SURE = 0.95
KINDS = ("face", "sure", "seen_around", "any")
PASSES = 3  # in turn, the quickest of three each: the machine may be shared


def steadiness(clip):
    """Uncovered gaps, flicker and painted area of one clip."""
    import numpy as np
    import torch
    from torchvision.ops import box_iou

    from ppad import movies
    from ppad.crop_sampler import face_squares
    from ppad.repainter import FRAMES_AT_ONCE
    from ppad.ssh import default_finder
    from ppad.tracks import Tracker

    movie = movies.probe(clip)
    frames = list(movies.read_movie(clip, movie))
    recall = default_finder()
    finder = recall.faces  # MTCNN or SSH, in every frame
    size = frames[0].shape[:2]
    found = [finder.find([frame])[0] for frame in frames]
    boxes = [one["boxes"].numpy() for one in found]
    scores = [one["scores"].numpy() for one in found]
    command = recall.at_rate(movie.rate)
    sightings = [
        b.numpy()
        for i in range(0, len(frames), FRAMES_AT_ONCE)
        for b in command(frames[i : i + FRAMES_AT_ONCE])
    ]

    def overlap(box, others):
        return len(others) > 0 and bool(
            (box_iou(torch.tensor(box)[None], torch.tensor(others)) >= 0.3).any()
        )

    def painted(boxes):
        mask = np.zeros(size, bool)
        for x0, y0, x1, y1 in (
            face_squares(torch.tensor(boxes, dtype=torch.float).view(-1, 4))
            .round()
            .int()
            .clamp(min=0)
            .tolist()
        ):
            mask[y0:y1, x0:x1] = True
        return mask

    def nearest(boxes, box):
        return boxes[np.abs(boxes - box).sum(1).argmin()] if len(boxes) else None

    def flicker(path):
        path = [nearest(b, best) for b in path]
        return float(
            np.mean(
                [
                    np.abs(b - a).mean()
                    for a, b in zip(path, path[1:])
                    if a is not None and b is not None
                ]
            )
        )

    best = boxes[max(range(len(frames)), key=lambda t: scores[t].max(initial=0))][
        0
    ]  # the surest box of all frames
    face = {
        t: nearest(b[s > SURE], best)
        for t, (b, s) in enumerate(zip(boxes, scores))
        if (s > SURE).any()
    }
    face = [face[min(face, key=lambda i: abs(i - t))] for t in range(len(frames))]

    def follow(share, seed):
        """Runs by kind, uncovered boxes, flicker, painted share, of one random choice of the
        detections kept.
        """
        rng = np.random.default_rng(seed)
        tracker = Tracker()
        popped = []
        kept = [b[rng.random(len(b)) >= share] for b in sightings]
        for b in kept:
            tracker.push(b)
        tracker.finish()
        while tracker.ready():
            popped.append(tracker.pop())
        longest = dict.fromkeys(KINDS, 0)
        run = dict.fromkeys(KINDS, 0)
        uncovered = {}
        area = []
        for t, shown in enumerate(popped):
            mask = painted(shown)
            bad = set()
            area.append(mask.mean())
            for box, score in zip(boxes[t], scores[t]):
                x0, y0, x1, y1 = box.clip(0, [size[1], size[0]] * 2)
                part = mask[int(np.ceil(y0)) : int(y1), int(np.ceil(x0)) : int(x1)]
                if not part.all():
                    key = (t, round(float(score), 2), *box.round().astype(int).tolist())
                    uncovered[key] = round(1 - float(part.mean()), 3)
                    around = (
                        0 < t < len(frames) - 1
                        and overlap(box, kept[t - 1])
                        and overlap(box, kept[t + 1])
                    )
                    is_one = (overlap(box, face[t][None]), score > SURE, around, True)
                    bad |= {kind for kind, it_is in zip(KINDS, is_one) if it_is}
            for kind in KINDS:
                run[kind] = run[kind] + 1 if kind in bad else 0
                longest[kind] = max(longest[kind], run[kind])
        return longest, uncovered, flicker(popped), float(np.mean(area))

    every = follow(0.0, 0)
    dropped = [follow(DROPPED, seed) for seed in range(SEEDS)]
    lost = {}
    for _, uncovered, _, _ in dropped:
        for key, share in uncovered.items():
            lost.setdefault(key, []).append(share)
    worst = {kind: max(one[0][kind] for one in dropped) for kind in KINDS}
    return {
        "frames": len(frames),
        "sightings": sum(map(len, sightings)),
        "found_on_originals": sum(map(len, boxes)),
        "lowest_score": round(float(np.concatenate(scores).min()), 3),
        "longest_uncovered_gap": {"all": every[0], "dropped": worst},
        "uncovered": [
            [*map(float, key), len(shares), max(shares)] for key, shares in sorted(lost.items())
        ],
        "flicker_px": {
            "steady": round(every[2], 3),
            "steady_dropped": round(max(one[2] for one in dropped), 3),
            "per_frame": round(flicker(boxes), 3),
        },
        "painted": {
            "steady": round(every[3], 4),
            "steady_dropped": round(max(one[3] for one in dropped), 4),
            "per_frame": round(float(np.mean([painted(b).mean() for b in boxes])), 4),
        },
    }


def timed(command, environment):
    """Seconds by the clock and seconds of CPU of one run of a whole command."""
    start = time.perf_counter()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        command,
        check=True,
        env=environment,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("clips", type=Path)
    parser.add_argument("--out", type=Path, default=Path("anonymize.json"))
    parser.add_argument(
        "--reference-python", help="interpreter of an environment with deface==1.5.0"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--loops", type=int, default=10)
    args = parser.parse_args()
    clips = sorted(path for path in args.clips.iterdir() if path.suffix in (".mkv", ".mp4"))
    environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
    result = {
        "threads": args.threads,
        "machine": {"platform": platform.platform(), "cores": os.cpu_count()},
        "clips": {clip.name: steadiness(clip) for clip in clips},
    }
    with tempfile.TemporaryDirectory() as place:
        long = Path(place) / "long.mp4"
        subprocess.run(
            [
                "ffmpeg",
                "-v",
                "error",
                "-stream_loop",
                str(args.loops - 1),
                "-i",
                clips[0],
                "-f",
                "lavfi",
                "-i",
                "sine=f=440",
                "-shortest",
                "-map",
                "0:V",
                "-map",
                "1:a",
                "-c:v",
                "libx264",
                "-crf",
                "18",
                "-preset",
                "veryfast",
                long,
            ],
            check=True,
        )
        from ppad import movies

        frames = movies.probe(long).count
        commands = {
            "ppad": [
                sys.executable,
                "-m",
                "ppad.anonymize",
                long,
                f"{place}/ours.mp4",
                "--method",
                "blur",
                "--overwrite",
            ]
        }
        if args.reference_python:
            code = "import sys; from deface.deface import main; sys.exit(main())"
            theirs = [
                args.reference_python,
                "-c",
                code,
                long,
                "--output",
                f"{place}/theirs.mp4",
                "--keep-audio",
            ]
            commands["deface_1.5.0"] = theirs
        from ppad.repainter import LOOKS_A_SECOND

        runs = {name: [] for name in commands}
        cpu = {name: [] for name in commands}
        for _ in range(PASSES):
            for name, command in commands.items():
                seconds, busy = timed(command, environment)
                runs[name].append(round(frames / seconds, 2))
                cpu[name].append(round(busy, 2))
        result["speed"] = {
            "frames": frames,
            "frames_a_second": {name: max(rates) for name, rates in runs.items()},
            "runs": runs,
            "cpu_seconds": {name: min(times) for name, times in cpu.items()},
            "ssh_looks_a_second": LOOKS_A_SECOND,
        }
        if args.reference_python:
            result["speed"]["ratio"] = round(max(runs["ppad"]) / max(runs["deface_1.5.0"]), 2)
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
