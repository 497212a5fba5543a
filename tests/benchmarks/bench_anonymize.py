"""How steady `ppad.anonymize` is on real clips, how fast and how large the command; writes JSON.

    python tests/benchmarks/bench_anonymize.py CLIPS --out anonymize.json \
        [--reference-python PATH] [--threads 2] [--loops 10]

CLIPS is a folder of movies, each with a face in view throughout; MTCNN's weights lie in
$PPAD_WEIGHTS. Each clip goes through `Anonymizer.frames`, as in the command: batches of frames of
which MTCNN searches the first and SSH the middle one, while in the others the faces found are
followed. Once with all detections, and by five seeds with 30 % of them dropped at random, after the
finder and before the tracker, of which the worst is reported. What must be covered is what both
detectors together find in the originals when they search every frame. A box is covered if every
pixel of it is painted. Longest runs of frames with an uncovered box, among

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
beside per-frame detection's (1.6 times its boxes). `sightings` are the boxes that the tracker got,
`searched_closely` how often it was searched once more, about a lost face or because none was found.

Speed: frames a second of the whole command, start-up included, `--method blur`, on the first clip
played `--loops` times over and on the second one enlarged to 1440x1080, with a tone, as H.264 in
MP4. `--reference-python` is the interpreter of an environment with deface==1.5.0: its command is
timed in turn with ours on the same file with as many threads, sound kept, H.264 in MP4 out, and the
ratio added. deface runs one network (CenterFace) on every frame by itself, by OpenCV unless `onnx`
and `onnxruntime` are installed besides; ours runs MTCNN and SSH at least `looks_a_second`, and
follows the faces. Both encode with libx264 each at its own settings (`deface` its default crf and
preset; ours crf 20, veryfast). `cpu_seconds` is user + system time of the whole command with its
children, the least of its runs; `peak_mib` the most memory that the command or one of its children
(ffmpeg) held, the most of its runs.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np
import torch
from torchvision.ops import box_iou

from ppad import movies
from ppad.crop_sampler import face_squares
from ppad.optim import versions
from ppad.repainter import FRAMES_AT_ONCE, LOOKS_A_SECOND, Anonymizer
from ppad.ssh import FaceFinder, default_finder

DROPPED = 0.3
SEEDS = 5
SURE = 0.95
KINDS = ("face", "sure", "seen_around", "any")
LARGE = "1440:1080"
PASSES = 3  # in turn, the quickest of three each: the machine may be shared
# Runs a command from a small process, as a child's peak memory begins with its parent's.
MEASURED = """
import json, resource, subprocess, sys, time
start = time.perf_counter()
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
seconds = time.perf_counter() - start
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024]))
"""


class Recorded:
    """A `RecallFinder` for the frames of one movie, which searches each but once.

    With `dropped` it forgets that share of the boxes, as `seed` says. `kept` holds what it gave for
    each frame, `closer` how many were searched closely.
    """

    def __init__(self, finder, frames):
        self.finder = finder
        self.number = {id(frame): t for t, frame in enumerate(frames)}
        self.answers = {}
        self.start(0.0, 0)

    def start(self, dropped, seed):
        self.dropped = dropped
        self.seed = seed
        self.kept = [None] * len(self.number)
        self.closer = 0

    def follow(self, frames):
        numbers = [self.number[id(frame)] for frame in frames]
        if numbers[0] not in self.answers:
            self.answers[numbers[0]] = [boxes.numpy() for boxes in self.finder.follow(frames)]
        for t, boxes in zip(numbers, self.answers[numbers[0]]):
            self.kept[t] = self._dropped(boxes, t, 0)
        return [self.kept[t] for t in numbers]

    def closely(self, frames, lost=None):
        self.closer += 1
        t = self.number[id(frames[0])]
        (boxes,) = self.finder.closely(frames, lost)
        boxes = self._dropped(boxes.numpy(), t, 1 + (lost is None))
        self.kept[t] = np.concatenate([self.kept[t], boxes])
        return [boxes]

    def _dropped(self, boxes, *key):
        # A generator for each answer: the two searches run in different threads.
        rng = np.random.default_rng([self.seed, *key])
        return boxes[rng.random(len(boxes)) >= self.dropped]


def steadiness(clip):
    """Uncovered gaps, flicker and painted area of one clip."""
    movie = movies.probe(clip)
    frames = [frame.copy() for frame in movies.read_movie(clip, movie)]  # one may be shown twice
    recall = default_finder()
    finder = FaceFinder(recall.mtcnn, recall.ssh, rule="either")  # in every frame
    size = frames[0].shape[:2]
    found = [finder.find([frame])[0] for frame in frames]
    boxes = [one["boxes"].numpy() for one in found]
    scores = [one["scores"].numpy() for one in found]
    recorded = Recorded(recall, frames)
    anonymizer = Anonymizer.from_method("mask", finder=recorded)

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
        """Of one random choice of the detections kept: runs by kind, uncovered boxes, flicker,
        painted share, sightings and frames searched closely.
        """
        recorded.start(share, seed)
        popped = []
        for _ in anonymizer.frames(frames, movie.rate):
            popped.append(np.array([box for _, box in anonymizer.shown]).reshape(-1, 4))
        kept = recorded.kept
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
        counts = (sum(map(len, kept)), recorded.closer)
        return longest, uncovered, flicker(popped), float(np.mean(area)), *counts

    every = follow(0.0, 0)
    dropped = [follow(DROPPED, seed) for seed in range(SEEDS)]
    lost = {}
    for one in dropped:
        for key, share in one[1].items():
            lost.setdefault(key, []).append(share)
    worst = {kind: max(one[0][kind] for one in dropped) for kind in KINDS}
    return {
        "frames": len(frames),
        "sightings": every[4],
        "searched_closely": {"all": every[5], "dropped": max(one[5] for one in dropped)},
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
    """Seconds by the clock, seconds of CPU and peak MiB of one run of a whole command."""
    command = [sys.executable, "-c", MEASURED, *map(str, command)]
    done = subprocess.run(command, check=True, env=environment, cwd=ROOT, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


def commands_for(movie, folder, reference_python):
    """{name: command line} of what is compared; outputs go into `folder`."""
    ours = [sys.executable, "-m", "ppad.anonymize", movie, f"{folder}/ours.mp4"]
    commands = {"ppad": [*ours, "--method", "blur", "--overwrite"]}
    if reference_python:
        code = "import sys; from deface.deface import main; sys.exit(main())"
        theirs = [reference_python, "-c", code, movie, "--output", f"{folder}/theirs.mp4"]
        commands["deface_1.5.0"] = [*theirs, "--keep-audio"]
    return commands


def speed(clip, loops, scale, args):
    """Frames a second, CPU time and memory of whole commands on a clip played `loops` times.

    scale: ffmpeg's width:height of the frames, None for the clip's own.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
    with tempfile.TemporaryDirectory() as folder:
        movie = Path(folder) / "long.mp4"
        command = ["ffmpeg", "-v", "error", "-stream_loop", str(loops - 1), "-i", clip]
        command += "-f lavfi -i sine=f=440 -shortest -map 0:V -map 1:a".split()
        command += ["-vf", f"scale={scale}"] if scale else []
        subprocess.run(
            [*command, *"-c:v libx264 -crf 18 -preset veryfast".split(), movie], check=True
        )
        frames = movies.probe(movie).count
        commands = commands_for(movie, folder, args.reference_python)
        runs = {name: [] for name in commands}
        cpu = {name: [] for name in commands}
        memory = {name: [] for name in commands}
        for _ in range(PASSES):
            for name, command in commands.items():
                seconds, busy, peak = timed(command, environment)
                runs[name].append(round(frames / seconds, 2))
                cpu[name].append(round(busy, 2))
                memory[name].append(round(peak))
    result = {
        "clip": clip.name,
        "scale": scale,
        "frames": frames,
        "frames_a_second": {name: max(rates) for name, rates in runs.items()},
        "runs": runs,
        "cpu_seconds": {name: min(times) for name, times in cpu.items()},
        "peak_mib": {name: max(peaks) for name, peaks in memory.items()},
    }
    if args.reference_python:
        best = result["frames_a_second"]
        result["ratio"] = round(best["ppad"] / best["deface_1.5.0"], 2)
    return result


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
    result = {
        "threads": args.threads,
        "machine": {"platform": platform.platform(), "cores": os.cpu_count()},
        "versions": versions(),
        "looks_a_second": LOOKS_A_SECOND,
        "most_frames_a_batch": FRAMES_AT_ONCE,
        "clips": {clip.name: steadiness(clip) for clip in clips},
        "speed": [speed(clips[0], args.loops, None, args), speed(clips[1], 1, LARGE, args)],
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
