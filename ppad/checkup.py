"""What a run would meet on this machine, before hours go into it: `python -m ppad.reproduce --check`.

Three parts, all printed before any judgement:

* the machine: versions, processor, GPU, memory, disk, and what the preset's folders hold, counted but not decoded;
* each preset's needs: memory computed on shapes alone, minutes from the runs that are kept, "not measured" without one;
* a dry run: the chosen preset's three players on random pictures of its sizes, five updates each, by the very code of
  the main job, and what its rows would take at that speed.

Nothing is written. What would stop the preset is collected on the way and told at the end, in one sentence.
"""

import dataclasses
import json
import math
import os
import platform
import shutil
import statistics
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
import torchvision

from ppad import config as presets
from ppad import ranks, trainer
from ppad.crop_sampler import template
from ppad.ranks import BATCHES
from ppad.readers import (
    BOX_COLUMNS,
    POINT_COLUMNS,
    SUFFIXES,
    DataError,
    read_pair_lines,
    read_table,
)
from ppad.speed import recompute

RESULTS = Path(__file__).resolve().parents[1] / "lesson_notebooks" / "results"
STEPS = 5  # ours: the median of five leaves out the first, which warms up
PATIENCE = 60  # ours: seconds after which a part of the dry run ends with fewer steps
ASSUMED = {
    "people": 10572,
    "classes": 10,
}  # Sec. 5.1: CASIA-WebFace less its three people of LFW; DALY's classes
GIB = 2**30


# ---------------------------------------------------------------- the machine


def versions() -> dict:
    """Versions of what decides a run's numbers."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": np.__version__,
    }


def processor() -> str:
    """The chip's name, as Linux has it; elsewhere what Python knows."""
    known = platform.processor() or platform.machine()
    if not Path("/proc/cpuinfo").exists():
        return known
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")), known
    )


def hardware(device) -> dict:
    """What a run runs on, for results.json and the check."""
    report = {
        "cpu": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
    }
    if torch.device(device).type == "cuda":
        report["gpu"] = torch.cuda.get_device_name(device)
    return report


def memory(device) -> tuple[float, float] | None:
    """(free, whole) memory in GiB of the GPU or of this machine; None where the system does not tell."""
    if torch.device(device).type == "cuda":
        free, whole = torch.cuda.mem_get_info(device)
        return free / GIB, whole / GIB
    if not Path("/proc/meminfo").exists():
        return None
    kib = {
        line.split(":")[0]: int(line.split()[1])
        for line in Path("/proc/meminfo").read_text().splitlines()
    }
    return kib["MemAvailable"] * 1024 / GIB, kib["MemTotal"] * 1024 / GIB


def peak_memory() -> float | None:
    """This process's peak resident memory in GiB; None on Windows, which does not tell."""
    if sys.platform == "win32":
        return None
    import resource  # not there on Windows

    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, KiB on Linux
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB, 2)


def gpu_peak(device) -> float | None:
    """The most GPU memory this process's tensors have taken, GiB; None where the device is none."""
    return (
        round(torch.cuda.max_memory_allocated(device) / GIB, 2)
        if torch.device(device).type == "cuda"
        else None
    )


# ---------------------------------------------------------------- data


def data_files(config) -> list[Path]:
    """What must exist before a preset can read its pictures; nothing for a drawn world."""
    faces, actions = Path(config.faces), Path(config.actions)
    return (
        []
        if config.drawn
        else [
            faces / "train",
            faces / "test",
            faces / "landmarks.csv",
            faces / "pairs_test.txt",
            actions / "annotations.csv",
            actions / "faces.csv",
        ]
    )


def count_data(config) -> dict:
    """How many pictures, people, pairs, frames and classes the preset's folders and tables promise, undecoded.

    Raises DataError naming what is missing or a table that cannot be read.
    """
    if config.drawn:
        return {
            "train_faces": config.train_identities * config.pictures_each,
            "people": config.train_identities,
            "test_faces": config.test_identities * config.test_pictures_each,
            "pairs": config.test_pairs,
            "train_frames": config.train_frames,
            "test_frames": config.test_frames,
            "classes": ASSUMED["classes"],
            "absent": 0,
            "absent_test": 0,
            "absent_test_faces": 0,
        }
    missing = [str(path) for path in data_files(config) if not path.exists()]
    if missing:
        raise DataError(
            f"{', '.join(missing)} not there: give --faces and --actions prepared folders (see the README)"
        )
    faces, actions = Path(config.faces), Path(config.actions)

    def pictures(part, people=0, each=0):
        found = Counter(
            path.parent.name
            for path in (faces / part).glob("*/*")
            if path.suffix.lower() in SUFFIXES
        )
        return [min(found[person], each or math.inf) for person in sorted(found)[: people or None]]

    pairs = read_pair_lines(faces / "pairs_test.txt")[1]
    marked = [row["file"] for row in read_table(faces / "landmarks.csv", ("file", *POINT_COLUMNS))]
    read_table(actions / "faces.csv", ("file", *BOX_COLUMNS))
    rows = read_table(actions / "annotations.csv", ("file", "split", "action"))
    split_of = {row["file"]: row["split"] for row in rows}
    splits = Counter(split_of.values())
    absent = Counter(split for file, split in split_of.items() if not (actions / file).is_file())
    train = pictures("train", config.train_identities, config.pictures_each)
    return {
        "train_faces": sum(train),
        "people": len(train),
        "test_faces": sum(pictures("test")),
        "pairs": len(pairs),
        "absent_test_faces": sum(
            file.startswith("test/") and not (faces / file).is_file() for file in marked
        ),
        "train_frames": min(splits["train"], config.train_frames or math.inf),
        "test_frames": min(splits["test"], config.test_frames or math.inf),
        "absent": absent.total(),
        "absent_test": absent["test"],
        "classes": len({row["action"] for row in rows}),
    }


# ---------------------------------------------------------------- what a preset needs


def kept_bytes(network, *shape) -> int:
    """Bytes that `network`, on the meta device, keeps of an input of `shape` for its backward pass."""
    own = {
        id(storage): storage
        for storage in (
            one.untyped_storage() for one in [*network.parameters(), *network.buffers()]
        )
    }
    kept = {}  # both hold the storages, so that no id is given twice

    def note(tensor):
        kept[id(tensor.untyped_storage())] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        network(torch.empty(shape, device="meta"))
    return sum(storage.nbytes() for place, storage in kept.items() if place not in own)


def needs(config, people: int, classes: int, rows: int = 11) -> dict[str, float]:
    """GiB of memory for training and for the pictures, and of disk, roughly: computed on shapes, nothing is allocated.

    Training: weights, gradients and Adam's two moments (4 x 4 bytes a weight), and what the largest step keeps for its
    backward pass, of one part of an accumulated batch. Disk: two checkpoints a row of the players and of the attacker,
    weights and moments.
    """
    with torch.device("meta"):
        modifier, recognizer = (
            trainer.make_modifier(config),
            trainer.make_recognizer(config, people),
        )
        detector = trainer.make_detector(dataclasses.replace(config, detector_weights=""), classes)
    m, d, a = (sum(p.numel() for p in one.parameters()) for one in (modifier, recognizer, detector))
    if config.checkpointing:
        for network in (modifier, recognizer.network, detector.model.backbone):
            recompute(network)
    side, crop = (
        (3, config.face_size, config.face_size),
        (3, config.recognizer_height, config.recognizer_breadth),
    )
    faces, frames = (
        config.batch_faces // config.accumulate,
        config.batch_frames // config.accumulate,
    )
    game = (
        kept_bytes(modifier, faces + frames, *side)  # about one face a frame
        + kept_bytes(recognizer.network, faces, *crop)
        + kept_bytes(detector.model.backbone, frames, 3, config.frame_height, config.frame_width)
    )
    alone = kept_bytes(recognizer.network, max(config.pretrain_recognizer_batch, 2 * faces), *crop)
    every = m + d + a + (d if config.practice_steps else 0)  # M practises against a copy of D
    return {
        "training": (16 * every + max(game, alone)) / GIB,
        "disk": rows * 2 * 12 * (every + d) / GIB,
    }


def picture_memory(config, counts: dict) -> float:
    """GiB of the pictures in memory, one byte a value: of folders, the sets that fit into `memory_gb`, in order of reading."""
    face, frame = config.face_size**2, config.frame_height * config.frame_width
    held = 0.0
    for name, pixels in (
        ("train_faces", face),
        ("test_faces", face),
        ("train_frames", frame),
        ("test_frames", frame),
    ):
        size = 3 * counts[name] * pixels / GIB
        held += size if config.drawn or held + size <= config.memory_gb else 0
    return held


def kept_time(preset: str) -> str:
    """What a kept run of this preset took, and where; "not measured" without one."""
    for path in sorted(RESULTS.glob("*/results.json")):
        kept = json.loads(path.read_text())
        if kept["preset"] == preset:
            machine = kept["hardware"]
            place = machine.get("gpu") or f"{machine['cpu']}, {machine['cores']} cores"
            seeds = f"{len(kept['seeds'])} seed{'s' * (len(kept['seeds']) > 1)}"
            return f"{kept['minutes']:.0f} minutes for {len(kept['rows'])} rows, {seeds} ({place})"
    return "not measured"


# ---------------------------------------------------------------- the dry run


def dry_run(config, people: int, classes: int, device) -> dict[str, float]:
    """Median seconds of five updates of each kind on random pictures; every loss must come out finite (ValueError)."""
    game = trainer.Game(
        config,
        trainer.make_recognizer(config, people),
        trainer.make_detector(config, classes),
        trainer.make_modifier(config),
        device,
    )
    size, height, width = config.face_size, config.frame_height, config.frame_width
    pictures = 2 * torch.rand(config.batch_faces, 3, size, size, device=device) - 1  # (B, 3, S, S)
    landmarks = template((size, size)).expand(len(pictures), 5, 2)  # (B, 5, 2)
    identities = torch.randint(people, (len(pictures),))  # (B,)
    frames = (
        2 * torch.rand(config.batch_frames, 3, height, width, device=device) - 1
    )  # (B', 3, H, W)
    person = torch.tensor([[0.25, 0.25, 0.75, 0.75]]) * torch.tensor([width, height] * 2)
    targets = [{"boxes": person, "labels": torch.randint(1, classes + 1, (1,))} for _ in frames]
    heads = [person * 0.5 for _ in frames]  # (1, 4): a face of a quarter of the frame's sides
    scene = frames, targets, heads

    def modified(
        learns=config.accumulate == 1,
    ):  # as ppad.trainer.play: accumulating, M repaints once more
        with torch.set_grad_enabled(learns):
            return game.anonymize(pictures)

    learn, seen = game.speed.in_parts, modified(False)
    parts = {
        "M repaints": lambda: {"mean": modified(False).mean()},
        "D learns": lambda: learn(game.update_recognizer, pictures, seen, landmarks, identities),
        "M learns": lambda: learn(
            game.update_modifier, pictures, modified(), landmarks, identities
        ),
        "M and A learn": lambda: learn(
            game.update_modifier_and_detector, pictures, modified(), landmarks, identities, *scene
        ),
        "A learns": lambda: learn(game.finetune_detector, *scene),
    }
    seconds = {}
    for name, part in parts.items():
        times = []
        while len(times) < STEPS and sum(times) <= PATIENCE:
            began = time.monotonic()
            for term, value in part().items():
                if not math.isfinite(float(value.detach())):  # float() also waits for the GPU
                    raise ValueError(
                        f"in the dry run the term '{term}' became {float(value.detach())}"
                    )
            times.append(time.monotonic() - began)
        seconds[name] = statistics.median(times)
        fewer = "" if len(times) == STEPS else f" (after {len(times)} of {STEPS})"
        print(f"  {name:14} {seconds[name]:8.3f} seconds a step{fewer}", flush=True)
    return seconds


def halved(config):
    """The same preset with every batch half as large, and not in more parts than can be; None when all are 1 already."""
    half = {name: max(1, getattr(config, name) // 2) for name in BATCHES}
    smaller = dataclasses.replace(
        config,
        **half,
        accumulate=math.gcd(config.accumulate, *(half[name] for name in BATCHES[:3])),
    )
    return None if smaller == config else smaller


def minutes(config, tried, seconds: dict[str, float]) -> dict[str, float]:
    """Minutes of training before all rows, of a row with a fixed anonymizer, and of Ours, from the dry run's seconds.

    tried: the config of the dry run, perhaps with smaller batches; times grow with the batch.
    """
    faces, frames = config.batch_faces / tried.batch_faces, config.batch_frames / tried.batch_frames
    paint, d, a = (
        seconds["M repaints"] * faces,
        seconds["D learns"] * faces,
        seconds["A learns"] * frames,
    )
    both, m, turns = (
        seconds["M and A learn"] * max(faces, frames),
        seconds["M learns"] * faces,
        config.recognizer_updates,
    )
    batch = config.pretrain_recognizer_batch / config.batch_faces
    lesson = d / 2 * batch  # D's own update reads two crops a face
    practice = config.practice_faces / config.batch_faces
    start = (
        config.pretrain_recognizer_steps + config.attack_steps
    ) * lesson + config.pretrain_detector_steps * a
    fixed = config.T1 * (turns * d + a) + config.T2 * a + config.attack_steps * lesson
    ours = (
        fixed
        + config.T1 * ((turns - 1) * paint + both - a)
        + config.attack_steps * paint * batch
        + practice
        * (
            config.pretrain_modifier_steps * m
            + config.practice_steps * (turns * d + (turns - 1) * paint + m)
        )
    )
    return {"start": start / 60, "fixed": fixed / 60, "ours": ours / 60}


# ---------------------------------------------------------------- the check


def check(
    preset: str, config, out: Path, rows: list[str], seeds: list[int], device: str, jobs: int
) -> int:
    """Print all three parts; 0, or ValueError with everything that would stop this preset here."""
    problems = []
    if device.startswith("cuda") and not torch.cuda.is_available():
        problems.append(f"device is '{device}', but torch sees no GPU here: use --device cpu")
        device = "cpu"
    machine, room, pictures = hardware(device), memory(device), 0.0
    folder = next(path for path in [out.absolute(), *out.absolute().parents] if path.exists())
    disk = shutil.disk_usage(folder).free / GIB
    print(
        ", ".join(f"{name} {version}" for name, version in versions().items())
        + f", {machine['system']}"
    )
    print(
        f"processor: {machine['cpu']}, {machine['cores']} cores; GPU: {machine.get('gpu', 'none used')}"
    )
    print(
        f"memory: {'not told by this system' if room is None else f'{room[0]:.1f} GiB free of {room[1]:.1f}'}"
        f"; disk: {disk:.1f} GiB free for {out}"
    )

    shared, here = config, 1
    if (processes := ranks.asked()) > 1:  # the first one checks what each will do
        here = int(os.environ["LOCAL_WORLD_SIZE"])
        config = dataclasses.replace(
            config, **{name: max(1, getattr(config, name) // processes) for name in BATCHES}
        )
        print(
            f"processes: {processes} (torchrun); memory and times are those of one, with its share of every batch"
        )

    counts = {**ASSUMED, "train_faces": 0, "test_faces": 0, "train_frames": 0, "test_frames": 0}
    print(f"\npreset {preset}" + ("" if config.drawn else f": {config.faces} and {config.actions}"))
    try:
        counts = count_data(config)
        print(
            "  {train_faces} faces of {people} people to train on, {test_faces} and {pairs} pairs to test; {train_frames} and "
            "{test_frames} frames of {classes} actions, {absent} listed but not there".format(
                **counts
            )
        )
        pictures = (
            picture_memory(config, counts) * here
        )  # processes of torchrun do not share them, forked jobs do
        for key, kind, table in (
            ("absent_test", "frames", Path(config.actions) / "annotations.csv"),
            ("absent_test_faces", "faces", Path(config.faces) / "landmarks.csv"),
        ):
            if counts[key]:
                problems.append(
                    f"{counts[key]} test {kind} of {table} are not there: restore them, or delete their rows"
                )
        presets.check_counts(shared, counts["train_faces"], counts["train_frames"])
        ranks.check_batches(shared)
    except (ValueError, OSError) as error:
        problems.append(str(error))
        print("  not as it must be, see the end")
    if config.detector_weights and not Path(config.detector_weights).is_file():
        problems.append(
            f"detector_weights {config.detector_weights} is not there: see data_scripts/get_weights.py"
        )
        config = dataclasses.replace(config, detector_weights="")
    if not config.detector_weights and config.detector_body != "toy":
        print(
            f"  A's {config.detector_body} starts from nothing: give --detector_weights, or much more than a thousand frames"
        )
    people, classes = max(2, counts["people"]), max(1, counts["classes"])

    print("\npreset      training  pictures and weights; time of the kept run")
    for name in presets.PRESETS:
        one = config if name == preset else presets.build(name)
        lacking = [path for path in data_files(one) if not path.exists()]
        data = "drawn" if one.drawn else "data there" if not lacking else f"{lacking[0]} missing"
        file = one.detector_weights or f"{one.detector_body} without weights file"
        body = "no weights file" if one.detector_body == "toy" else file
        size = needs(one, people if name == preset else ASSUMED["people"], classes)["training"]
        print(f"{name:10} {size:5.1f} GiB  {data}; {body}; {kept_time(name)}")
    print(
        "Training memory is roughly what the networks need; torch itself takes about half a GiB more."
    )

    need, ram = needs(config, people, classes, len(rows) * len(seeds)), memory("cpu")
    print(
        f"\nthis run: {need['training']:.1f} GiB for training in each of {jobs} job{'s' * (jobs > 1)}, "
        f"{pictures:.1f} GiB for the pictures, {need['disk']:.1f} GiB on disk"
    )
    if need["disk"] > disk:
        problems.append(
            f"the disk has {disk:.1f} GiB free where about {need['disk']:.1f} are needed: choose another --out"
        )
    if ram and pictures > ram[0]:
        problems.append(
            f"the pictures take {pictures:.1f} GiB of memory where {ram[0]:.1f} are free: lower --memory_gb, or read "
            "fewer (--train_identities, --pictures_each, --train_frames)"
        )
    if room and jobs > 1 and jobs * need["training"] > room[0]:
        problems.append(
            f"{jobs} jobs at once need {jobs * need['training']:.1f} GiB where {room[0]:.1f} are free: give --jobs "
            f"{max(1, int(room[0] / need['training']))}"
        )
    tried = config
    while room and tried and needs(tried, people, classes)["training"] > room[0]:
        tried = halved(tried)
    problems += rehearse(config, tried, people, classes, device, jobs, rows, seeds)
    if problems:
        raise ValueError(f"{preset} cannot run here as it is: {'; '.join(problems)}")
    print("\nNothing is missing.")
    return 0


def rehearse(config, tried, people, classes, device, jobs, rows, seeds) -> list[str]:
    """The dry run, with smaller batches where memory is short, and what the rows would take. Returns what went wrong."""
    if jobs > 1:
        torch.set_num_threads(1)  # as each of the rows side by side will have
    seconds = None
    while tried and not seconds:
        told = ", ".join(
            f"{name} {getattr(tried, name)} instead of {getattr(config, name)}"
            for name in BATCHES[:2]
        )
        print(
            f"dry run on {device}{'' if tried is config else f', memory being short with {told}'}:",
            flush=True,
        )
        try:
            seconds = dry_run(tried, people, classes, device)
        except torch.OutOfMemoryError:
            tried = halved(tried)
        except ValueError as error:
            return [str(error)]
    if not seconds:
        return ["there is not enough memory for one picture at a time"]
    part, ours = minutes(config, tried, seconds), "Ours" in rows
    side_by_side = (
        min(jobs, len(rows)) if device == "cpu" else 1
    )  # rows on one GPU share it: no promise how far
    whole = (
        len(seeds)
        * (part["start"] + (len(rows) - ours) * part["fixed"] + ours * part["ours"])
        / side_by_side
    )
    print(
        f"at that speed: {part['start']:.0f} minutes before all rows, {part['fixed']:.0f} a row, {part['ours']:.0f} for Ours; "
        f"about {whole:.0f} minutes for {len(rows)} rows, {len(seeds)} seed{'s' * (len(seeds) > 1)}, {side_by_side} at a time "
        "(judging comes on top)"
    )
    if tried is config:
        return []
    return [
        f"memory is too short for its batches: at most {' '.join(f'--{name} {getattr(tried, name)}' for name in BATCHES)}"
    ]
