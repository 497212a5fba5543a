"""What do places alone tell of who somebody is, however well a face is painted? Writes JSON.

    python tests/benchmarks/bench_geometry.py --out geometry.json

An attacker aligns a repainted picture by the true landmarks. Even with everything else hidden there
remain, in the aligned crop,

    face       where M painted the new one: its scale, turn and place (of M's `place`, with the
               noise that M draws)
    ellipse    where the ellipse lies that M paints, with the size and the place that M draws

`landmarks` are the true ones, aligned: who a repainted face hides. The attacker is the best one for
numbers with normal distributions: the likelihood that both pictures show one person against that
they show two, by the covariances between and within people (Chen et al., "Bayesian Face Revisited",
ECCV 2012), learned on the training people and judged on the test pairs like those of Table 1. The
networks are those of the reference run (lesson_notebooks/results/toy/players.pt).
"""

import argparse
import json
import os
import platform
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "lesson_notebooks")]

import lesson
import numpy as np
import torch

from ppad import evaluate, files, metrics
from ppad.crop_sampler import similarity, template
from ppad.players import fit, moved


@torch.no_grad()
def places(modifier, faces, config) -> dict[str, np.ndarray]:
    """Numbers of each face (N, d), by what they are of; all in px of the aligned crop."""
    aligned = similarity(faces.landmarks, template(config.crop_size))  # (N, 2, 3)
    batches = torch.arange(len(faces)).split(config.eval_batch)
    painted = torch.cat([modifier.place(faces.batch(indices)[0]) for indices in batches])
    _, _, shift, ellipses = modifier.draw(len(faces))
    shape = modifier.shape.expand(len(faces), 5, 2)
    larger, moves = ellipses[:, None, :1], ellipses[:, None, 1:]  # (N, 1, 1), (N, 1, 2)
    marks = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]])  # the middle, right and below
    marks = (marks * (1 + larger) + moves + 1) * config.face_size / 2  # (N, 3, 2) px
    found = {
        "face": numbers(fit(shape, moved(painted + shift, aligned))),
        "ellipse": moved(marks, aligned).flatten(1)[:, :4],
        "landmarks": moved(faces.landmarks, aligned).flatten(1),
    }
    found["face and ellipse"] = torch.cat([found["face"], found["ellipse"]], dim=1)
    return {name: values.double().numpy() for name, values in found.items()}


def numbers(transforms: torch.Tensor) -> torch.Tensor:
    """The four numbers (N, 4) of similarity transforms (N, 2, 3)."""
    return torch.stack([*transforms[:, 0].unbind(dim=1), transforms[:, 1, 2]], dim=1)


def same_person(known: np.ndarray, people: np.ndarray, first: np.ndarray, second: np.ndarray):
    """How much likelier it is that pairs (P, d) show one person than two: (P,), in nats.

    known: (N, d) of the training pictures. people: (N,), who they show.
    """
    center = known.mean(axis=0)
    scale = known.std(axis=0)
    known, first, second = ((values - center) / scale for values in (known, first, second))
    means = np.stack([known[people == person].mean(axis=0) for person in np.unique(people)])
    within = np.cov((known - means[people]).T)
    size = len(known) / len(means)  # pictures of a person, whose mean moves with them
    between = np.cov(means.T) - within / size
    total = between + within
    apart = np.block([[total, 0 * total], [0 * total, total]])
    together = np.block([[total, between], [between, total]])
    pairs = np.concatenate([first, second], axis=1)  # (P, 2d)
    difference = np.linalg.inv(apart) - np.linalg.pinv(together)
    return np.einsum("pi,ij,pj->p", pairs, difference, pairs) / 2


def error(scores: np.ndarray, same: np.ndarray, folds: np.ndarray) -> float:
    """The mean over folds, each judged by the threshold that is best for the others."""
    errors = []
    for fold in np.unique(folds):
        here = folds == fold
        threshold = metrics.best_threshold(scores[~here], same[~here])
        errors.append(np.mean((scores[here] > threshold) != same[here]))
    return float(np.mean(errors))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)

    seed = lesson.results()["seeds"][0]
    players = lesson.players()
    data = evaluate.draw_data(players.config, seed)
    torch.manual_seed(seed)
    known = places(players.modifier, data.faces, players.config)
    tested = places(players.modifier, data.test_faces, players.config)
    report = {
        "machine": {"platform": platform.platform(), "cores": os.cpu_count()},
        "torch": torch.__version__,
        "seed": seed,
        "error": {},
    }
    people = data.faces.identities.numpy()
    same, folds = data.pairs.same.numpy(), data.pairs.folds.numpy()
    for name, values in tested.items():
        pair = values[data.pairs.first], values[data.pairs.second]
        found = error(same_person(known[name], people, *pair), same, folds)
        report["error"][name] = round(found, 4)
    print(json.dumps(report["error"]))
    files.write_file(args.out, json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
