"""Would longer training help the attackers? Judges the stored M again; writes JSON.

    python tests/benchmarks/bench_attackers.py --out attackers.json [--row Ours] [--times 10]

One more attacker, `around`, is trained and judged like the retrained one on what M leaves as it
was: the ellipse that an M of players.Exchanger paints is blackened, so that hair, neck, clothes and
background are all that tells who it is.

The networks are those of the reference run (lesson_notebooks/results/toy/players.pt, in half
precision). The retrained and the inverting attacker of one row are trained anew, once with their
steps of Table 1 and once with TIMES as many, on the same anonymizer, and judged on the same test
faces as the table's. Their rates fall over all their steps. An attacker of its own steps need not
repeat the table's figure to the last digit: an M that draws has drawn other numbers.
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
sys.path[:0] = [str(ROOT), str(ROOT / "lesson_notebooks")]

import lesson
import torch
from torch import nn

from ppad import attackers, evaluate, files, loop

MODIFIERS = {"Ours": "modifier", "Ours(ascent)": "plain_modifier"}


class Surroundings(nn.Module):
    """Faces (B, 3, S, S) without what an M with a `mask` (S, S) paints."""

    def __init__(self, modifier):
        super().__init__()
        self.size = modifier.size
        self.register_buffer("left", 1 - modifier.mask)

    def forward(self, faces):
        return self.left * faces + self.left - 1  # -1: black


def train(start, anonymizer, faces, config, seed: int, times: int, place: Path):
    """Attackers of `times` their steps: the retrained ones, which start as `start`; the inverting.

    Returns that on M's pictures, that on what is around (None where M has no mask), the inverting.
    """
    longer = dataclasses.replace(
        config,
        attack_steps=times * config.attack_steps,
        invert_steps=times * config.invert_steps,
    )

    def training(name):
        where = place / f"{name}_{times}"
        return loop.Loop(where, f"{name} x {times}", seed, {"times": times}, 10, 60)

    torch.manual_seed(seed)
    start.requires_grad_(True)  # of which the attacker trains a copy
    retrained = attackers.train_attacker(start, anonymizer, faces, longer, training("retrained"))
    around = None
    if hasattr(anonymizer, "mask"):
        torch.manual_seed(seed)
        left = Surroundings(anonymizer)
        around = attackers.train_attacker(start, left, faces, longer, training("around"))
    torch.manual_seed(seed)
    inverter = attackers.train_inverter(anonymizer, faces, longer, training("inverting"))
    return retrained, around, inverter


def judge(players, data, seed: int, anonymizer, retrained, around, inverter) -> dict:
    """Errors of these attackers on anonymized test faces, and the strongest of them."""
    torch.manual_seed(seed)  # as `evaluate.judge_row`
    modified = attackers.RepaintedFaces(data.test_faces, anonymizer, players.config)
    restored = attackers.RepaintedFaces(modified, inverter, players.config).floats()
    shown = {
        "retrained": (retrained, modified.floats()),
        "inverting_never_saw": (players.recognizer_start, restored),
        "inverting_other_architecture": (players.other, restored),
    }
    if around is not None:
        left = attackers.RepaintedFaces(data.test_faces, Surroundings(anonymizer), players.config)
        shown["around"] = (around, left.floats())
    report = evaluate.privacy(shown, data, players.config, seed=seed)
    errors = {
        f"{name}, {kind}": round(report[name][kind]["error"], 4)
        for name in shown
        for kind in ("both", "probe")
    }
    return errors | {"strongest": report["strongest"]}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--row", default="Ours", choices=MODIFIERS)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--keep", type=Path, help="folder of the training, to resume it")
    args = parser.parse_args(argv)

    seed = lesson.results()["seeds"][0]
    players = lesson.players()
    anonymizer = getattr(players, MODIFIERS[args.row])
    data = evaluate.draw_data(players.config, seed)
    report = {
        "machine": {"platform": platform.platform(), "cores": os.cpu_count()},
        "torch": torch.__version__,
        "row": args.row,
        "seed": seed,
        "steps": {
            "retrained": players.config.attack_steps,
            "inverting": players.config.invert_steps,
        },
        "times": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        for times in (1, args.times):
            began = time.monotonic()
            place = args.keep or Path(folder)
            settings = (data.faces, players.config, seed, times, place)
            trained = train(players.recognizer_start, anonymizer, *settings)
            found = judge(players, data, seed, anonymizer, *trained)
            minutes = (time.monotonic() - began) / 60
            report["times"][str(times)] = found | {"minutes": round(minutes, 1)}
            print(json.dumps({times: found}))
    files.write_file(args.out, json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
