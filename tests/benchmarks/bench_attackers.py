"""Would longer training help the attackers? Judges the stored M again; writes JSON.

    python tests/benchmarks/bench_attackers.py --out attackers.json [--row Ours] [--times 10]
        [--attackers retrained inverting around]

The attacker `around` is trained and judged like the retrained one on what M leaves as it was: the
ellipse that an M of players.Exchanger paints is made gray, and its edge with it, so that hair,
neck, clothes and background are all that tells who it is.

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
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "lesson_notebooks")]

import lesson
import torch
from torch import nn

from ppad import attackers, evaluate, files, loop

MODIFIERS = {"Ours": "modifier", "Ours(ascent)": "plain_modifier"}
ATTACKERS = ("retrained", "inverting", "around")


class Surroundings(nn.Module):
    """Faces (B, 3, S, S) where an M that pastes ellipses leaves them as they were, else gray."""

    stochastic = True  # the ellipses are drawn anew

    def __init__(self, modifier):
        super().__init__()
        self.size = modifier.size
        self.modifier = modifier

    def forward(self, faces):
        *_, ellipses = self.modifier.draw(len(faces))
        painted = self.modifier.paste(torch.ones_like(faces), torch.zeros_like(faces), ellipses)
        return torch.where(painted > 0, torch.zeros_like(faces), faces)


def attack(name: str, players, anonymizer, data, config, training: loop.Loop) -> dict:
    """Train an attacker and show it the anonymized test faces: {its name: (it, its pictures)}.

    The retrained ones start as D before the game; an inverting one has two recognizers.
    """
    seen = Surroundings(anonymizer) if name == "around" else anonymizer
    torch.manual_seed(training.seed)
    if name == "inverting":
        inverter = attackers.train_inverter(seen, data.faces, config, training)
    else:
        start = players.recognizer_start.requires_grad_(True)  # the attacker trains a copy
        attacker = attackers.train_attacker(start, seen, data.faces, config, training)
    torch.manual_seed(training.seed)  # as `evaluate.judge_row`
    modified = attackers.RepaintedFaces(data.test_faces, seen, config)
    if name != "inverting":
        return {name: (attacker, modified.floats())}
    restored = attackers.RepaintedFaces(modified, inverter, config).floats()
    return {
        "inverting_never_saw": (players.recognizer_start, restored),
        "inverting_other_architecture": (players.other, restored),
    }


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--row", default="Ours", choices=MODIFIERS)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--attackers", nargs="+", default=ATTACKERS, choices=ATTACKERS)
    parser.add_argument("--keep", type=Path, help="folder of the training, to resume it")
    args = parser.parse_args(argv)

    seed = lesson.results()["seeds"][0]
    players = lesson.players()
    anonymizer = getattr(players, MODIFIERS[args.row])
    if "around" in args.attackers and not hasattr(anonymizer, "paste"):
        parser.error(f"--attackers around: the M of {args.row} paints all; leave it out")
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
            seconds = 0.0  # of training, over all calls
            config = dataclasses.replace(
                players.config,
                attack_steps=times * players.config.attack_steps,
                invert_steps=times * players.config.invert_steps,
            )
            shown = {}
            for name in args.attackers:
                place = (args.keep or Path(folder)) / f"{name}_{times}"
                training = loop.Loop(place, f"{name} x {times}", seed, {"times": times}, 10, 60)
                shown |= attack(name, players, anonymizer, data, config, training)
                seconds += training.seconds
            privacy = evaluate.privacy(shown, data, config, seed=seed)
            found = {
                f"{name}, {kind}": round(privacy[name][kind]["error"], 4)
                for name in shown
                for kind in ("both", "probe")
            }
            found["strongest"] = privacy["strongest"]
            report["times"][str(times)] = found | {"minutes": round(seconds / 60, 1)}
            print(json.dumps({times: found}))
    files.write_file(args.out, json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
