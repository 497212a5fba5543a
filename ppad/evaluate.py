"""Rows of Table 1 and points of Fig. 4, with attackers the paper did not try.

A row is judged on pictures nobody trained on: mAP of its A on anonymized test frames (paper Sec. 5.1),
verification errors of four recognisers on its anonymized test faces (see `ppad.attacks`), and how much of
the face's structure is left. `strongest` is the lowest error that any attacker reaches, over all four
recognisers, with both pictures of a pair modified or only one: the figure to quote as privacy.
"""

import copy
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ppad import metrics, ranks
from ppad.attacks import PlainRecognizer, embed, repaint_set, train_recognizer, verify
from ppad.datasets import Batches, Feed
from ppad.loop import Loop
from ppad.trainer import repainted_frames

ATTACKERS = ("own", "never_saw", "other_architecture", "retrained")


class LandmarkReader(nn.Module):
    """A small network that reads the five landmarks of a face picture (B, 3, S, S) as (B, 5, 2) px.

    Trained on originals and read on modified faces, its error says whether a face is still there, in its
    pose: the structure that the L1 term (eq. 3) is meant to keep. Architecture ours: one map a landmark at an
    eighth of the size; the landmark is the centre of mass of its map's softmax, which needs far fewer steps
    than a linear layer that must learn where every pixel lies.
    """

    def __init__(self, size: int, width: int = 16):
        super().__init__()
        self.size = size
        layers, channels = [], 3
        for out, stride in ((width, 2), (2 * width, 2), (4 * width, 2), (4 * width, 1)):
            layers += [
                nn.Conv2d(channels, out, 3, stride, padding=1),
                nn.BatchNorm2d(out),
                nn.ReLU(),
            ]
            channels = out
        self.body = nn.Sequential(*layers, nn.Conv2d(channels, 5, 1))

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        maps = self.body(pictures)  # (B, 5, S / 8, S / 8)
        share = maps.flatten(2).softmax(dim=2).view_as(maps)
        centres = (
            (torch.arange(maps.shape[2], device=maps.device) + 0.5) * self.size / maps.shape[2]
        )  # (S / 8,) px
        x, y = (
            (share.sum(dim=2) * centres).sum(dim=2),
            (share.sum(dim=3) * centres).sum(dim=2),
        )  # (B, 5) each
        return torch.stack([x, y], dim=2)  # (B, 5, 2)


@dataclass
class Judges:
    """What every row of one seed is judged with; all trained on originals only."""

    never_saw: nn.Module
    other_architecture: nn.Module
    landmark_reader: LandmarkReader


@dataclass
class Data:
    """The four sets and the pairs. The test people are in neither training set."""

    faces: object  # datasets.FaceSet, F
    actions: object  # datasets.ActionSet, V
    test_faces: object
    test_actions: object
    pairs: object  # datasets.Pairs over test_faces


def train_other(data: Data, config, loop: Loop, device="cpu") -> PlainRecognizer:
    """The judge of another architecture, trained on originals; it never meets any anonymizer."""
    torch.manual_seed(loop.seed)
    other = PlainRecognizer(
        config.other_width, config.embedding, int(data.faces.identities.max()) + 1
    ).to(device)
    batches = Batches(len(data.faces), config.pretrain_recognizer_batch, seed=loop.seed)
    return train_recognizer(
        other, data.faces, batches, config, config.attack_steps, loop, device=device
    )


def train_landmark_reader(data: Data, config, loop: Loop, device="cpu") -> LandmarkReader:
    """The judge of structure, trained on originals: L1 in px, Adam 5e-3 falling along a cosine (ours)."""
    torch.manual_seed(loop.seed)
    reader = LandmarkReader(config.face_size).to(device)
    ranks.join_norms(reader)
    averaging, optimizer = (
        ranks.Averaging(reader.parameters()),
        torch.optim.Adam(reader.parameters(), lr=5e-3),
    )
    batches = Batches(len(data.faces), config.pretrain_recognizer_batch, seed=loop.seed)
    feed = Feed(data.faces, batches, device)

    def step(number: int) -> dict:
        optimizer.param_groups[0]["lr"] = (
            5e-3 * 0.5 * (1 + math.cos(math.pi * (number - 1) / config.landmark_steps))
        )
        pictures, landmarks, _ = feed.next()
        loss = F.l1_loss(
            reader(pictures), landmarks.to(device, non_blocking=pictures.device.type != "cpu")
        )
        optimizer.zero_grad(set_to_none=True)
        averaging(loss).backward()
        optimizer.step()
        return {"px": loss}

    loop.start(reader=reader, optimizer=optimizer, batches=batches)
    loop.stage("train", config.landmark_steps, step)
    return reader.eval()


def train_attacker(recognizer, anonymizer, data: Data, config, loop: Loop, device="cpu"):
    """The `retrained` attacker: D's pretrained weights (an attacker would not throw them away) taught on a row's outputs."""
    batches = Batches(len(data.faces), config.pretrain_recognizer_batch, seed=loop.seed + 1)
    return train_recognizer(
        copy.deepcopy(recognizer).to(device),
        data.faces,
        batches,
        config,
        config.attack_steps,
        loop,
        anonymizer,
        device,
    )


@torch.no_grad()
def action_ap(
    detector, anonymizer, actions, config, device="cpu"
) -> tuple[float, dict[str, float]]:
    """mAP and AP by class (frame-mAP at IoU 0.5, Sec. 5.1) of `detector` on test frames whose faces are repainted."""
    found, truths, batch = [], [], max(1, config.eval_batch // 8)
    for start in range(0, len(actions), batch):
        index = torch.arange(start, min(start + batch, len(actions)))
        frames, targets, boxes = actions.batch(index, device=device)
        repainted = repainted_frames(frames, boxes, anonymizer, config.face_size)
        found += [
            {key: value.cpu() for key, value in one.items()} for one in detector.detect(repainted)
        ]
        truths += targets
    mean, per_class = metrics.frame_map(found, truths, len(actions.classes))
    return mean, {name: float(value) for name, value in zip(actions.classes, per_class)}


@torch.no_grad()
def structure(anonymizer_output, test_faces, reader, config, device="cpu") -> dict[str, float]:
    """L1 to the original (in the [-1, 1] range, eq. 3) and the landmark reader's error in eye distances."""
    distances, errors = [], []
    for start in range(0, len(test_faces), config.eval_batch):
        index = torch.arange(start, min(start + config.eval_batch, len(test_faces)))
        pictures, landmarks, _ = test_faces.batch(index)
        modified = anonymizer_output[index]
        distances.append((modified - pictures).abs().mean(dim=(1, 2, 3)))  # (B,)
        eyes = (landmarks[:, 1] - landmarks[:, 0]).norm(dim=1)  # (B,)
        read = reader(modified.to(device)).cpu()  # (B, 5, 2)
        errors.append((read - landmarks).norm(dim=2).mean(dim=1) / eyes)  # (B,)
    return {
        "l1": float(torch.cat(distances).mean()),
        "landmark_error": float(torch.cat(errors).mean()),
    }


def privacy(
    recognizers: dict, modified: torch.Tensor, data: Data, config, device="cpu", seed: int = 0
) -> dict:
    """Every attacker's figures on one row's anonymized test faces.

    Args: recognizers: name -> module for each of ATTACKERS; modified (N, 3, S, S): the test faces, repainted.
    Returns per attacker `both` (both pictures of a pair modified) and `probe` (original against modified), each as
    `attacks.verify`, its rank-1 rate, and `strongest` with a 95 % interval by bootstrap over identities.
    """
    originals, landmarks = data.test_faces.floats(), data.test_faces.landmarks
    people, report = data.test_faces.identities, {}
    gallery = torch.tensor(
        np.unique(people.numpy(), return_index=True)[1]
    )  # first picture of each person
    probe = torch.ones(len(people), dtype=torch.bool).index_fill(0, gallery, False).nonzero()[:, 0]
    features = {}
    for name, recognizer in recognizers.items():
        before = embed(recognizer, originals, landmarks, config, device)  # (N, 2E)
        after = embed(recognizer, modified, landmarks, config, device)  # (N, 2E)
        features[name] = {"both": (after, after), "probe": (before, after)}
        report[name] = {
            "both": verify(after, after, data.pairs),
            "probe": verify(before, after, data.pairs),
            "originals": verify(before, before, data.pairs)["error"],
            "rank1": float(
                metrics.rank1(after[gallery], people[gallery], after[probe], people[probe])
            ),
        }
    error, name, kind = min(
        (report[n][k]["error"], n, k) for n in recognizers for k in ("both", "probe")
    )
    first, second = (
        x[i] for x, i in zip(features[name][kind], (data.pairs.first, data.pairs.second))
    )
    low, high = error_interval(first, second, data, seed)
    report["strongest"] = {
        "error": error,
        "attacker": name,
        "pictures": kind,
        "interval": [low, high],
    }
    return report


def error_interval(first, second, data: Data, seed: int) -> tuple[float, float]:
    """95 % interval of the verification error by bootstrap over identities, the fold protocol's thresholds kept."""
    wrong = ~metrics.fold_accuracy(first, second, data.pairs.same, data.pairs.folds).correct  # (P,)
    people = data.test_faces.identities
    pairs = torch.stack(
        [people[data.pairs.first], people[data.pairs.second]], dim=1
    ).numpy()  # (P, 2)
    return metrics.bootstrap_identities(lambda index: float(wrong[index].mean()), pairs, seed=seed)


def controls(judges: Judges, data: Data, config, device="cpu") -> dict:
    """What an honest reader needs beside every privacy figure: the judges on originals, well and badly aligned."""
    pictures, landmarks = data.test_faces.floats(), data.test_faces.landmarks
    report = {}
    for name in ("never_saw", "other_architecture"):
        good = embed(getattr(judges, name), pictures, landmarks, config, device)
        bad = embed(getattr(judges, name), pictures, landmarks, config, device, align_twice=True)
        report[name] = {
            "originals": verify(good, good, data.pairs),
            "misaligned_originals": verify(bad, bad, data.pairs),
        }
    left = structure(pictures, data.test_faces, judges.landmark_reader, config, device)
    report["landmark_reader_on_originals"] = left["landmark_error"]
    report["frames_without_face"] = sum(len(b) == 0 for b in data.test_actions.face_boxes) / len(
        data.test_actions
    )
    return report


def judge_row(
    name: str, game, attacker, judges: Judges, data: Data, config, seed: int, device="cpu"
) -> dict:
    """One row of one seed, as `results.json` keeps it (see `summarise`)."""
    anonymizer = game.anonymizer
    mean, per_class = action_ap(game.detector, anonymizer, data.test_actions, config, device)
    modified = repaint_set(data.test_faces, anonymizer, config, device)  # (N, 3, S, S)
    recognizers = {
        "own": game.recognizer,
        "never_saw": judges.never_saw,
        "other_architecture": judges.other_architecture,
        "retrained": attacker,
    }
    report = privacy(recognizers, modified, data, config, device, seed)
    error = {attack: report[attack]["both"]["error"] for attack in ATTACKERS}
    error["strongest"] = report["strongest"]["error"]
    error["probe_vs_original"] = min(report[attack]["probe"]["error"] for attack in ATTACKERS)
    return {
        "name": name,
        "seed": seed,
        "mAP": mean,
        "AP": per_class,
        "verification_error": error,
        "structure": structure(modified, data.test_faces, judges.landmark_reader, config, device),
        "attacks": report,
    }


def mean_or_none(values: list[float]) -> float | None:
    """Mean without nan; None where nothing is left (a class that no test frame shows)."""
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else None


def summarise(rows: list[dict]) -> dict:
    """The rows of one name over its seeds, as one row with mean, std (over seeds, n - 1) and every seed's value."""

    def over_seeds(values):
        return {
            "mean": float(np.mean(values)),
            "std": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0,
            "per_seed": [float(v) for v in values],
        }

    first = rows[0]
    return {
        "name": first["name"],
        "mAP": over_seeds([row["mAP"] for row in rows]),
        "AP": {name: mean_or_none([row["AP"][name] for row in rows]) for name in first["AP"]},
        "verification_error": {
            key: over_seeds([row["verification_error"][key] for row in rows])
            for key in first["verification_error"]
        },
        "structure": {
            key: float(np.mean([row["structure"][key] for row in rows]))
            for key in first["structure"]
        },
        "attacks": [row["attacks"] for row in rows],
    }
