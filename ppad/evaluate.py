"""The data of an experiment, and rows of Table 1 with attackers the paper did not try (Sec. 5).

A row is measured on pictures that no network was trained on: mAP of its A on anonymized test frames
(Sec. 5.1), verification errors of all attackers on anonymized test faces (see `ppad.attackers`),
and how much of the faces' structure is preserved.
"""

import functools
import io
import math
import re
import runpy
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ppad import datasets, files, folders, metrics, optim, players
from ppad.attackers import RepaintedFaces, embed, found_again, spread, structure, verify
from ppad.crop_sampler import repaint
from ppad.figures import over_seeds
from ppad.mtcnn import MTCNN
from ppad.optim import GIB
from ppad.players import LandmarkReader

INVERTING = ("inverting_never_saw", "inverting_other_architecture")
ATTACKERS = ("own", "never_saw", "other_architecture", "retrained", *INVERTING)
# Sec. 5.1: CASIA-WebFace without the three people who are in LFW; DALY's classes
ASSUMED = {"train_people": 10572, "classes": 10}
SETS = ("train_faces", "test_faces", "train_frames", "test_frames")  # in order of reading


# ---------------------------------------------------------------- data


@dataclass
class Data:
    """The four sets and the pairs. No test person is in a training set."""

    faces: datasets.FaceSet  # F
    actions: datasets.ActionSet  # V
    test_faces: datasets.FaceSet
    test_actions: datasets.ActionSet
    pairs: datasets.Pairs  # of test_faces

    def counts(self) -> dict[str, int]:
        """How many pictures, people and pairs there are to train and test on."""
        return {
            "train_faces": len(self.faces),
            "train_people": int(self.faces.identities.max()) + 1,
            "test_faces": len(self.test_faces),
            "test_people": int(self.test_faces.identities.max()) + 1,
            "pairs": len(self.pairs),
            "pairs_dropped": len(self.pairs.dropped),
            "train_frames": len(self.actions),
            "test_frames": len(self.test_actions),
            "skipped": len(self.faces.skipped) + len(self.actions.skipped),
        }

    def fingerprints(self) -> dict[str, str]:
        """A checksum of each set, which does not depend on its folder."""
        sets = (self.faces, self.test_faces, self.actions, self.test_actions)
        checksums = {name: one.fingerprint() for name, one in zip(SETS, sets)}
        pairs = (self.pairs.first, self.pairs.second, self.pairs.same, self.pairs.folds)
        checksums["pairs"] = datasets.checksum(*(part.tolist() for part in pairs))
        return {f"{name}_checksum": value for name, value in checksums.items()}


def load_data(config, seed: int) -> Data:
    """Draw or read the data of one seed. Raises DataError for what is missing or wrong."""
    return draw_data(config, seed) if config.drawn else read_data(config)


def drawn_test_people(config) -> range:
    """The toy world's people in the test sets; none of them is in a training set."""
    return range(config.train_identities, config.train_identities + config.test_identities)


def draw_data(config, seed: int) -> Data:
    """Draw the toy world of one seed; training and test share no people and no scenes."""
    people = range(config.train_identities)
    test_people = drawn_test_people(config)
    side = config.frame_height
    test_faces = datasets.toy_faces(seed, test_people, config.test_pictures_each, config.face_size)
    per_fold = config.test_pairs // (2 * config.folds)
    return Data(
        datasets.toy_faces(seed, people, config.pictures_each, config.face_size),
        datasets.toy_actions(seed, config.train_frames, side, people),
        test_faces,
        datasets.toy_actions(seed, config.test_frames, side, test_people, config.train_frames),
        datasets.toy_pairs(test_faces, config.folds, per_fold, seed),
    )


def read_data(config) -> Data:
    """Read the prepared folders. Sets that exceed the rest of `memory_gb` stay in their files."""
    train, test, landmarks, pairs, *tables = prepared(config)
    root = Path(config.actions)
    frame = (config.frame_height, config.frame_width)
    limits = (config.train_identities, config.pictures_each)
    # a training set may skip bad pictures; a test set must not shrink
    readers = (
        (datasets.read_faces, "skip", (train, landmarks, config.face_size, *limits)),
        (datasets.read_faces, "error", (test, landmarks, config.face_size)),
        (datasets.read_actions, "skip", (root, *tables, "train", frame, config.train_frames)),
        (datasets.read_actions, "error", (root, *tables, "test", frame, config.test_frames)),
    )
    sets = []
    memory_left = config.memory_gb * GIB
    shared = {"face_scale": config.face_scale, "workers": config.workers}
    for read, on_bad, given in readers:
        pictures = read(*given, on_bad=on_bad, memory=memory_left, **shared)
        for line in pictures.skipped:
            print(f"skipped: {line}", file=sys.stderr)
        if pictures.lazy:
            size = f"{pictures.nbytes / GIB:.1f} GiB of pictures stay in their files"
            print(f"{given[0]}: {size} (memory_gb is {config.memory_gb:g})", file=sys.stderr)
        else:
            memory_left -= pictures.nbytes
        sets.append(pictures)
    faces, test_faces, actions, test_actions = sets
    return Data(faces, actions, test_faces, test_actions, datasets.read_pairs(pairs, test_faces))


def prepared(config) -> list[Path]:
    """The paths listed below. DataError if some are missing, or train/ and test/ share people."""
    in_faces = ("train", "test", "landmarks.csv", "pairs_test.txt")
    paths = [Path(config.faces, name) for name in in_faces]
    paths += [Path(config.actions, name) for name in ("annotations.csv", "faces.csv")]
    if missing := ", ".join(str(path) for path in paths if not path.exists()):
        fix = "give --faces and --actions prepared folders (see the README)"
        raise files.DataError(f"{missing} not there: {fix}")
    folders.check_people(config.faces)
    return paths


def count_data(config) -> dict[str, int]:
    """Count as `Data.counts` does, without decoding a picture. Raises DataError."""
    if config.drawn:
        return {
            "train_faces": config.train_identities * config.pictures_each,
            "train_people": config.train_identities,
            "test_faces": config.test_identities * config.test_pictures_each,
            "pairs": config.test_pairs,
            "train_frames": config.train_frames,
            "test_frames": config.test_frames,
            "classes": len(datasets.ACTIONS),
        }
    train, test, landmarks, pairs, *tables = prepared(config)
    folders.landmark_rows(train, landmarks)
    rows = folders.landmark_rows(test, landmarks)
    frames = folders.annotated_frames(*tables)
    tested = [file for file, frame in frames.items() if frame.split == "test"]
    for table, folder, names in ((tables[0], config.actions, tested), (landmarks, test, rows)):
        if absent := [one for one in names if not files.find_picture(folder, one).is_file()]:
            fault = f"{len(absent)} test pictures, such as {absent[0]}, are not there"
            raise files.DataError(f"{table}: {fault}: restore them, or delete their rows")
    frames = frames.values()
    splits = Counter(frame.split for frame in frames)
    people = Counter(name.split("/")[0] for name in folders.pictures_in(train))
    limit = config.pictures_each or math.inf
    each = [min(people[name], limit) for name in sorted(people)][: config.train_identities or None]
    names = [name.rpartition(".")[0] for name in folders.pictures_in(test)]
    return {
        "train_faces": sum(each),
        "train_people": len(each),
        "test_faces": len(names),
        "pairs": len(files.find_pairs(pairs, names)[0]),
        "train_frames": min(splits["train"], config.train_frames or math.inf),
        "test_frames": min(splits["test"], config.test_frames or math.inf),
        "classes": len({action for frame in frames for action in frame.actions}),
    }


def needs(config, train_people: int, classes: int, rows: int = 11) -> dict[str, float]:
    """GiB of `training` memory and of `disk` (`optim.needs`); nothing is allocated."""
    config = replace(config, detector_weights="", recognizer_weights="")
    with torch.device("meta"):
        recognizer = players.make_recognizer(config, train_people)
        detector = players.make_detector(config, classes)
        modifier = players.make_modifier(config)
        return optim.needs(config, modifier, recognizer, detector, rows)


# ---------------------------------------------------------------- one number at a time


@dataclass
class Judges:
    """The networks that evaluate all rows of a seed; all are trained on originals only."""

    never_saw: nn.Module
    other_architecture: nn.Module
    landmark_reader: LandmarkReader


@torch.no_grad()
def action_ap(detector, anonymizer, actions, config, device="cpu") -> tuple[float, dict]:
    """Frame-mAP at IoU 0.5 and AP by class (Sec. 5.1), on frames with anonymized faces.

    detector: A, or anything with `.detect(frames)`. actions: `datasets.ActionSet` of test frames.
    Returns the mean and {class: AP}; nan for a class that no frame shows.
    """
    detections = []
    truths = []
    for indices in torch.arange(len(actions)).split(max(1, config.eval_batch // 8)):
        frames, targets, boxes = actions.batch(indices, device=device)  # frames (B, 3, H, W)
        for detected in detector.detect(repaint(frames, boxes, anonymizer)):
            detections.append({key: value.cpu() for key, value in detected.items()})
        truths += targets
    mean, per_class = metrics.frame_map(detections, truths, len(actions.classes))
    return mean, {name: float(value) for name, value in zip(actions.classes, per_class)}


def error_interval(first, second, data: Data, seed: int) -> tuple[float, float]:
    """95 % interval of `verify(first, second, data.pairs)["error"]` by resampling identities."""
    pairs = data.pairs
    a = first[pairs.first]  # (P, 2E)
    b = second[pairs.second]  # (P, 2E)
    wrong = ~metrics.fold_accuracy(a, b, pairs.same, pairs.folds).correct  # (P,), fixed thresholds
    people = data.test_faces.identities[torch.stack([pairs.first, pairs.second], dim=1)]  # (P, 2)
    return metrics.bootstrap_identities(
        lambda chosen: float(wrong[chosen].mean()), people.numpy(), seed=seed
    )


def privacy(attackers: dict, data: Data, config, device="cpu", seed: int = 0) -> dict:
    """Every attacker's figures on one row's anonymized test faces.

    attackers: for each of ATTACKERS, name -> (recognizer, the anonymized test faces as it sees
    them: (N, 3, S, S) or `FaceSet.floats()`).

    Returns for each attacker `both` (both pictures of a pair modified) and `probe` (original
    against modified), each as `attackers.verify`, its error on `originals` and its `rank1` rate.
    `strongest` is the lowest `both` or `probe` error of any attacker, the figure to quote as
    privacy, with a 95 % interval by bootstrap over identities.
    """
    originals = data.test_faces.floats()
    landmarks = data.test_faces.landmarks
    people = data.test_faces.identities  # (N,)
    gallery = np.unique(people.numpy(), return_index=True)[1]  # the first picture of each person
    probe = np.setdiff1d(np.arange(len(people)), gallery)  # all other pictures
    report = {}
    compared = {}  # (error, attacker, pictures) -> features (N, 2E) of first and second pictures
    for name, (recognizer, modified) in attackers.items():
        before = embed(recognizer, originals, landmarks, config, device)  # (N, 2E)
        after = embed(recognizer, modified, landmarks, config, device)  # (N, 2E)
        rank1 = metrics.rank1(after[gallery], people[gallery], after[probe], people[probe])
        report[name] = {
            "both": verify(after, after, data.pairs),
            "probe": verify(before, after, data.pairs),
            "originals": verify(before, before, data.pairs)["error"],
            "rank1": float(rank1),
        }
        for pictures, first in (("both", after), ("probe", before)):
            compared[report[name][pictures]["error"], name, pictures] = (first, after)
    error, name, pictures = min(compared)
    report["strongest"] = {"error": error, "attacker": name, "pictures": pictures}
    interval = error_interval(*compared[error, name, pictures], data, seed)
    report["strongest"]["interval"] = list(interval)
    return report


def controls(judges: Judges, data: Data, config, device="cpu") -> dict:
    """The evaluators on originals: figures that belong beside every privacy figure.

    Wrong alignment, too, makes a good recognizer fail; that is not privacy.
    """
    pictures = data.test_faces.floats()
    landmarks = data.test_faces.landmarks
    report = {}
    for name in ("never_saw", "other_architecture"):
        recognizer = getattr(judges, name)
        good = embed(recognizer, pictures, landmarks, config, device)  # (N, 2E)
        bad = embed(recognizer, pictures, landmarks, config, device, align_twice=True)  # (N, 2E)
        report[name] = {
            "originals": verify(good, good, data.pairs),
            "misaligned_originals": verify(bad, bad, data.pairs),
        }
    looks = structure(pictures, data.test_faces, judges.landmark_reader, config, device)
    report["landmark_reader_on_originals"] = looks["landmark_error"]
    faceless = sum(len(boxes) == 0 for boxes in data.test_actions.face_boxes)
    report["frames_without_face"] = faceless / len(data.test_actions)
    return report


# ---------------------------------------------------------------- rows


@dataclass
class OwnRow:
    """A row with an anonymizer from outside this package: `--row NAME=FILE.py:CLASS`."""

    name: str
    make: Callable  # device -> `Guarded`
    checksum: str  # of the file and the class's name


class Guarded:
    """Wraps a user's anonymizer: gives it copies of the faces and checks what it returns."""

    def __init__(self, anonymizer, file: str, where: str):
        self.anonymizer = anonymizer
        self.file = file
        self.where = where  # how error messages begin
        for name in ("size", "smallest", "stochastic", "state_dict", "load_state_dict"):
            if hasattr(anonymizer, name):
                setattr(self, name, getattr(anonymizer, name))

    def __call__(self, faces):
        """(B, 3, S, S) in [-1, 1] -> the same. Raises DataError."""
        try:
            output = self.anonymizer(faces.clone())
        except (MemoryError, torch.OutOfMemoryError):  # not the file's fault
            raise
        except (Exception, SystemExit) as error:  # users' code may raise anything
            stack = traceback.extract_tb(error.__traceback__)
            lines = [f" (line {frame.lineno})" for frame in stack if frame.filename == self.file]
            self.refuse(f"raised {type(error).__name__}: {error}{''.join(lines[-1:])}")
        shape = tuple(output.shape) if torch.is_tensor(output) else type(output).__name__
        if shape != tuple(faces.shape):
            self.refuse(f"returns {shape} for {tuple(faces.shape)}: return a tensor of this shape")
        if not output.abs().max() <= 1.001:  # also for nan
            self.refuse(f"returns {output.min():.3g} to {output.max():.3g}: keep values in [-1, 1]")
        return output.to(faces)

    def refuse(self, fault: str) -> None:
        """Raise DataError."""
        raise files.DataError(f"{self.where} {fault}")


def read_own_row(text: str, size: int) -> OwnRow:
    """Read NAME=FILE.py:CLASS and try the anonymizer on faces of `size` px.

    Raises DataError if it cannot be used or breaks the contract (see `check_contract`).
    """
    form = re.fullmatch(r"([^\W_][^=|\n]{0,59})=(.+\.py):(\w+)", text)
    if not form:
        fix = "NAME starts with a letter or digit, without |, at most 60 characters"
        raise files.DataError(f"--row {text}: give NAME=FILE.py:CLASS; {fix}")
    name, file, class_name = form.groups()
    where = f"--row {name}: {class_name} of {file}"
    content = files.read_text(Path(file), "module")
    sys.path.append(str(Path(file).resolve().parent))  # to let it import its neighbors

    def make(device="cpu"):
        anonymizer = names[class_name]()
        if isinstance(anonymizer, nn.Module):
            anonymizer.to(device).eval().requires_grad_(False)
        return Guarded(anonymizer, file, where)

    try:
        names = runpy.run_path(file)
        check_contract(make(), size)
    except files.DataError:
        raise
    except (Exception, SystemExit) as error:  # a user's code may raise anything
        fix = f"{class_name}() must return the anonymizer"
        raise files.DataError(f"{where} raised {type(error).__name__}: {error}; {fix}") from error
    return OwnRow(name, make, datasets.checksum(content, class_name))


@torch.no_grad()
def check_contract(anonymizer: Guarded, size: int) -> None:
    """Raise DataError unless the result for a face is the same in every batch and call.

    Without `.size`, an anonymizer must take any S; with `stochastic = True`, results may differ.
    """
    if getattr(anonymizer, "size", size) != size:
        anonymizer.refuse(
            f"has .size {anonymizer.size!r}, but faces are {size} px: see --face_size"
        )
    for side in (size,) if hasattr(anonymizer, "size") else (size, size // 2 + 1):
        faces = torch.rand(3, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
        difference = (anonymizer(faces)[:1] - anonymizer(faces[:1])).abs().max()
        if difference > 1 / 127.5 and not getattr(anonymizer, "stochastic", False):  # a gray level
            anonymizer.refuse(
                "gives the same face another result in another batch: treat each face by itself, "
                "or set stochastic = True if each call draws random numbers"
            )
    if hasattr(anonymizer, "state_dict"):  # else the row's checkpoints could not be read
        buffer = io.BytesIO()
        try:
            torch.save(anonymizer.state_dict(), buffer)
            buffer.seek(0)
            anonymizer.load_state_dict(torch.load(buffer, weights_only=True))
        except Exception:  # a user's code may raise anything
            fix = "give tensors and plain values, and a load_state_dict that takes them"
            anonymizer.refuse(f"has a state_dict() that a checkpoint cannot restore: {fix}")


@functools.cache
def face_finder(device="cpu") -> MTCNN | None:
    """MTCNN, or None if its weights are missing, with one message a process."""
    try:
        return MTCNN.load().to(device)
    except ValueError as error:
        print(f"mtcnn_found and mtcnn_landmarks are left out: {error}", file=sys.stderr)
        return None


def judge_row(
    game, attacker, inverter, judges: Judges, data: Data, config, seed: int, folder=None
) -> dict:
    """Evaluate one row of one seed: the content of `row.json`.

    game: a finished `trainer.Game`. attacker, inverter: trained. folder: for temporary files.
    """
    torch.manual_seed(seed)  # an M that draws gives the same faces at each evaluation
    device = game.device
    mean, per_class = action_ap(game.detector, game.anonymizer, data.test_actions, config, device)
    modified = RepaintedFaces(data.test_faces, game.anonymizer, config, device, folder)
    faces = modified.floats()  # (N, 3, S, S)
    restored = RepaintedFaces(modified, inverter, config, device, folder).floats()
    attackers = {
        "own": (game.recognizer, faces),
        "never_saw": (judges.never_saw, faces),
        "other_architecture": (judges.other_architecture, faces),
        "retrained": (attacker, faces),
        "inverting_never_saw": (judges.never_saw, restored),
        "inverting_other_architecture": (judges.other_architecture, restored),
    }
    looks = structure(faces, data.test_faces, judges.landmark_reader, config, device)
    regions = torch.cat(data.test_actions.regions) - 0.5  # (K, 4), relative to pixel centers
    sides = (regions[:, 2:].ceil() - regions[:, :2].ceil()).amax(dim=1)  # (K,) whole px, as cut
    # smaller faces stay unchanged
    looks["faces_too_small"] = int((sides < getattr(game.anonymizer, "smallest", 0)).sum())
    if config.drawn:
        looks["spread"] = spread(game.anonymizer, seed, drawn_test_people(config), config, device)
    elif (finder := face_finder(device)) is not None:
        looks |= found_again(faces, data.test_faces, finder, config)
    report = privacy(attackers, data, config, device, seed)
    error = {attack: report[attack]["both"]["error"] for attack in ATTACKERS}
    error["inverting"] = min(error[attack] for attack in INVERTING)
    error["strongest"] = report["strongest"]["error"]
    error["probe_vs_original"] = min(report[attack]["probe"]["error"] for attack in ATTACKERS)
    return {
        "mAP": mean,
        "AP": per_class,
        "verification_error": error,
        "structure": looks,
        "attacks": report,
        "made_with": optim.made_with(),
    }


def mean_or_none(values: list[float | None]) -> float | None:
    """Mean without nan and None; None if no value is left."""
    valid = [value for value in values if value is not None and not math.isnan(value)]
    return float(np.mean(valid)) if valid else None


def summarize(rows: list[dict]) -> dict:
    """Combine the results of `judge_row` for one row and all seeds."""
    errors = [row["verification_error"] for row in rows]
    looks = [row["structure"] for row in rows]
    kinds = [kind for kind in looks[0] if all(kind in one for one in looks)]
    return {
        "name": rows[0]["name"],
        "mAP": over_seeds([row["mAP"] for row in rows]),
        "AP": {name: mean_or_none([row["AP"][name] for row in rows]) for name in rows[0]["AP"]},
        "verification_error": {key: over_seeds([one[key] for one in errors]) for key in errors[0]},
        "structure": {kind: mean_or_none([one[kind] for one in looks]) for kind in kinds},
        "attacks": [row["attacks"] for row in rows],
        "made_with": [row.get("made_with") for row in rows],  # older rows lack it
    }
