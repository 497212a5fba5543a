"""How much repainted faces flicker in real clips, beside the originals'; writes JSON.

    python tests/benchmarks/bench_flicker.py CLIPS --out flicker.json [--run RUN] [--frames 75]

CLIPS is a folder of movies, each with a face in view throughout; MTCNN's weights lie in
$PPAD_WEIGHTS. Each clip goes through `Anonymizer.frames` with the M of the run folder RUN, or the M
of this package. Each face is cut out at its steady box and shrunk to 64 px, so that its way through
the frame counts for nothing. `change` is the mean absolute difference of a face from one frame to
the next (in the range [-1, 1]), in the original and repainted; `ratio` is their quotient. Some of
the original's change is motion that M should keep; what M adds to it is flicker.
"""

import argparse
import json
import os
import platform
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np
import torch

from ppad import movies
from ppad.crop_sampler import crop_faces, face_squares
from ppad.repainter import Anonymizer

SIDE = 64  # px: ours, about the faces of the clips


def cut(frame, box):
    """The face (3, SIDE, SIDE) in [-1, 1] at a box (4,) of a frame (H, W, 3) uint8."""
    picture = torch.tensor(frame).permute(2, 0, 1)[None] / 127.5 - 1  # (1, 3, H, W)
    square = face_squares(torch.as_tensor(box, dtype=torch.float32)[None], 1.0)  # (1, 4)
    return crop_faces(picture, [square], SIDE)[0]


def flicker(clip, anonymizer, count):
    """Mean change of faces from frame to frame: the original's, the repainted one's."""
    movie = movies.probe(clip)
    frames = [frame for frame, _ in zip(movies.read_movie(clip, movie), range(count))]
    last = {}
    changes = []
    for before, after in zip(frames, anonymizer.frames(iter(frames), movie.rate)):
        now = {track: (cut(before, box), cut(after, box)) for track, box in anonymizer.shown}
        for track in now.keys() & last.keys():
            pair = zip(now[track], last[track])
            changes.append([float((new - old).abs().mean()) for new, old in pair])
        last = now
    original, repainted = np.mean(changes, axis=0)
    return {
        "frames": len(frames),
        "pairs": len(changes),
        "change": {"original": round(original, 4), "repainted": round(repainted, 4)},
        "ratio": round(repainted / original, 3),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("clips", type=Path)
    parser.add_argument("--out", type=Path, default=Path("flicker.json"))
    parser.add_argument("--run", type=Path, help="run folder (default: the M of this package)")
    parser.add_argument("--frames", type=int, default=75, help="frames of each clip")
    args = parser.parse_args()
    torch.manual_seed(0)
    clips = sorted(path for path in args.clips.iterdir() if path.suffix in (".mkv", ".mp4"))
    result = {
        "machine": {"platform": platform.platform(), "cores": os.cpu_count()},
        "torch": torch.__version__,
        "m": "a run's" if args.run else "the package's",
        "clips": {
            clip.name: flicker(clip, Anonymizer.from_run(args.run), args.frames) for clip in clips
        },
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
