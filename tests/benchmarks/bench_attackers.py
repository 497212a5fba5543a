"""Would longer training help the attackers? Judges a finished row again; writes JSON.

    python tests/benchmarks/bench_attackers.py RUN --out attackers.json [--row Ours] [--times 10]

RUN is the folder of a run of the toy preset. The retrained and the inverting attacker of one row
and seed are trained anew, once with their steps of Table 1 and once with TIMES as many, on the same
anonymizer, and judged on the same test faces as the table's. Their rates fall over all their steps.
An attacker of its own steps need not repeat the table's figure to the last digit: an M that draws
has drawn other numbers.
"""

import argparse
import dataclasses
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import torch

from ppad import attackers, config, evaluate, files, loop, reproduce


def train(run, start, anonymizer, times: int, place: Path):
    """The retrained attacker, which starts as `start`, and the inverting: `times` their steps."""
    longer = dataclasses.replace(
        run.config,
        attack_steps=times * run.config.attack_steps,
        invert_steps=times * run.config.invert_steps,
    )

    def training(name):
        where = place / f"{name}_{times}"
        return loop.Loop(where, f"{name} x {times}", run.seed, {"times": times}, 10, 60)

    torch.manual_seed(run.seed)
    faces = run.data.faces
    retrained = attackers.train_attacker(start, anonymizer, faces, longer, training("retrained"))
    torch.manual_seed(run.seed)
    inverter = attackers.train_inverter(anonymizer, faces, longer, training("inverting"))
    return retrained, inverter


def judge(run, judges, anonymizer, retrained, inverter) -> dict:
    """Errors of these attackers on anonymized test faces, and the strongest of them."""
    torch.manual_seed(run.seed)  # as `evaluate.judge_row`
    test = run.data.test_faces
    modified = attackers.RepaintedFaces(test, anonymizer, run.config)
    restored = attackers.RepaintedFaces(modified, inverter, run.config).floats()
    shown = {
        "retrained": (retrained, modified.floats()),
        "inverting_never_saw": (judges.never_saw, restored),
        "inverting_other_architecture": (judges.other_architecture, restored),
    }
    report = evaluate.privacy(shown, run.data, run.config, seed=run.seed)
    errors = {
        f"{name}, {kind}": round(report[name][kind]["error"], 4)
        for name in shown
        for kind in ("both", "probe")
    }
    return errors | {"strongest": report["strongest"]}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--row", default="Ours", choices=reproduce.KNOWN)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--keep", type=Path, help="folder of the training, to resume it")
    args = parser.parse_args(argv)

    run = reproduce.SeedRun(config.build("toy"), args.run / f"seed{args.seed}", args.seed, "cpu")
    judges = run.judges()
    anonymizer = run.finished(args.row)
    report = {
        "machine": {"platform": platform.platform(), "cores": os.cpu_count()},
        "torch": torch.__version__,
        "row": args.row,
        "seed": args.seed,
        "steps": {"retrained": run.config.attack_steps, "inverting": run.config.invert_steps},
        "times": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        for times in (1, args.times):
            began = time.monotonic()
            place = args.keep or Path(folder)
            trained = train(run, judges.never_saw, anonymizer, times, place)
            found = judge(run, judges, anonymizer, *trained)
            minutes = (time.monotonic() - began) / 60
            report["times"][str(times)] = found | {"minutes": round(minutes, 1)}
            print(json.dumps({times: found}))
    files.write_file(args.out, json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
