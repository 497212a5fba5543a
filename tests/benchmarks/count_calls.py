"""How many calls one step of the game makes, and how often it changes file.

    python tests/benchmarks/count_calls.py [--out calls.json] [--list]

One step (lines 2-9 of Algorithm 1, with one update of D) on the tiny settings of the tests. A
profiler (sys.setprofile) notes every call of a function of ppad/*.py, generators and comprehensions
included; a change of file is a call into another file than the call before it. What a reader has to
follow to understand a step should stay small: at most MOST_CALLS calls and MOST_CHANGES changes.
"""

import argparse
import collections
import json
import os
import platform
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch
from conftest import TINY

from ppad import config as presets
from ppad import datasets, players, trainer
from ppad.optim import processor

MOST_CALLS = 90
MOST_CHANGES = 25
WARM = 3  # steps before the one that counts: lambdas, caches and generators are in place then


def count(work) -> tuple:
    """What `work()` returns, and its calls as (file, function), in order."""
    calls = []

    def note(frame, event, argument):
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.parent == ROOT / "ppad":
            calls.append((path.name, frame.f_code.co_name))

    sys.setprofile(note)
    try:
        result = work()
    finally:
        sys.setprofile(None)
    return result, calls


def summary(calls) -> dict:
    files = [file for file, _ in calls]
    changes = sum(one != other for one, other in zip(files, files[1:]))
    return {"calls": len(calls), "files": len(set(files)), "changes_of_file": changes}


def calls_of_a_step() -> tuple:
    """The calls of lines 2-3 and of lines 4-9."""
    torch.manual_seed(0)
    config = presets.build("toy", **TINY)
    faces = datasets.toy_faces(0, range(6), 4, config.face_size)
    actions = datasets.toy_actions(0, 10, config.frame_height, range(6))
    game = trainer.Game(
        config,
        players.make_recognizer(config, 6),
        players.make_detector(config, len(actions.classes)),
        players.make_modifier(config),
    )
    face_batches = datasets.batches(faces, config.batch_faces, seed=0)
    frame_batches = datasets.batches(actions, config.batch_frames, seed=0)

    def lines_2_and_3():
        f, landmarks, people = next(face_batches)
        modified = game.anonymize(f)
        game.update_recognizer(f, modified, landmarks, people)
        return f, modified, landmarks, people

    for _ in range(WARM + 1):
        seen, first = count(lines_2_and_3)
        _, second = count(
            lambda seen=seen: game.update_modifier_and_detector(*seen, *next(frame_batches))
        )
    return first, second


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("calls.json"))
    parser.add_argument("--list", action="store_true", help="print every call, in order")
    args = parser.parse_args()
    first, second = calls_of_a_step()
    if args.list:
        for file, name in first + second:
            print(f"{file:20}{name}")
    result = {
        "lines 2-3": summary(first),
        "lines 4-9": summary(second),
        "calls": len(first) + len(second),
        "changes_of_file": sum(summary(part)["changes_of_file"] for part in (first, second)),
        "calls_by_file": dict(collections.Counter(file for file, _ in first + second)),
        "bars": {"calls": MOST_CALLS, "changes_of_file": MOST_CHANGES},
        "machine": {
            "platform": platform.platform(),
            "processor": processor(),
            "cores": os.cpu_count(),
        },
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))
    print(f"calls {result['calls']} (at most {MOST_CALLS})")
    print(f"changes of file {result['changes_of_file']} (at most {MOST_CHANGES})")


if __name__ == "__main__":
    main()
