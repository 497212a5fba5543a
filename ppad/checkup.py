"""What a run would meet on this machine: `python -m ppad.reproduce --check`.

Printed before hours go into a run: the machine; what the preset's folders hold, counted but not
decoded; memory, disk, and the minutes of reference runs (those whose results are kept in this
repository); and a dry run, a few steps of each stage on drawn pictures, with what the rows would
take at that speed. Nothing is written. Whatever would stop the preset here is collected and named
at the end, in one sentence.
"""

import dataclasses
import math
import os
import shutil
from pathlib import Path

import torch

from ppad import attackers, datasets, evaluate, files, optim, players, trainer
from ppad import config as presets
from ppad.baselines import make_baseline
from ppad.loop import TrialLoop
from ppad.optim import GIB, SHARED_BATCHES

RESULTS = Path(__file__).resolve().parents[1] / "lesson_notebooks" / "results"


def check(preset: str, config, out: Path, rows: list, seeds: list, device: str, jobs: int) -> None:
    """Print everything; raise ValueError with all that would stop this preset here."""
    problems = []
    if device.startswith("cuda") and not torch.cuda.is_available():
        problems.append(f"device is '{device}', but torch sees no GPU here: use --device cpu")
        device = "cpu"
    folder = next(path for path in [out.absolute(), *out.absolute().parents] if path.exists())
    disk = shutil.disk_usage(folder).free / GIB
    known = optim.hardware(device)
    free = optim.memory("cpu")
    print(", ".join(f"{name} {version}" for name, version in optim.versions().items()))
    print(f"processor: {known['cpu']}, {known['cores']} cores; GPU: {known.get('gpu', 'none')}")
    print("memory:", f"{free[0]:.1f} GiB free of {free[1]:.1f}" if free else "not known here")
    print(f"disk: {disk:.1f} GiB free for {out}\n\npreset {preset}, pictures:")
    counts = {**players.ASSUMED, **dict.fromkeys(evaluate.SETS, 0)}
    try:
        counts = evaluate.count_data(config)
        print(
            "  {train_faces} faces of {people} people to train on, {test_faces} and {pairs} pairs "
            "to test; {train_frames} and {test_frames} frames of {classes} actions, {absent} "
            "listed but not there".format(**counts)
        )
        annotations = Path(config.actions, "annotations.csv")
        landmarks = Path(config.faces, "landmarks.csv")
        for kind, table in (("frames", annotations), ("faces", landmarks)):
            if lost := counts[f"absent_test_{kind}"]:
                fix = "restore them, or delete their rows"
                problems.append(f"{lost} test {kind} of {table} are not there: {fix}")
        presets.check_counts(config, counts["train_faces"], counts["train_frames"])
        optim.check_batches(config)
    except (ValueError, OSError) as error:
        problems.append(str(error))
    weights = config.detector_weights
    if weights and not Path(weights).is_file():
        problems.append(f"detector_weights {weights} is not there: see data_scripts/get_weights.py")
        config = dataclasses.replace(config, detector_weights="")
    if not config.detector_weights and config.detector_body != "toy":
        print(f"  A's {config.detector_body} starts from nothing: give --detector_weights")
    processes = optim.launched_processes()
    if processes > 1:
        share = {name: max(1, getattr(config, name) // processes) for name in SHARED_BATCHES}
        config = dataclasses.replace(config, **share)
        print(f"processes: {processes} (torchrun); memory and times are those of one")

    print("\npreset     training  reference run")
    for name in presets.PRESETS:
        size = players.needs(presets.build(name), **players.ASSUMED)["training"]
        print(f"{name:10} {size:4.1f} GiB  {reference_time(name)}")
    sizes = (max(2, counts["people"]), max(1, counts["classes"]))
    need = players.needs(config, *sizes, len(rows) * len(seeds))
    problems += check_space(config, need, counts, disk, device, jobs)
    problems += rehearse(config, sizes, device, jobs, rows, seeds)
    if problems:
        raise ValueError(f"{preset} cannot run here as it is: {'; '.join(problems)}")
    print("\nNothing is missing.")


def reference_time(preset: str) -> str:
    """What the reference run of a preset took, and where; "not measured" without one."""
    for path in sorted(RESULTS.glob("*/results.json")):
        run = files.read_json(path)
        if run["preset"] == preset:
            known = run["hardware"]
            place = known.get("gpu") or f"{known['cpu']}, {known['cores']} cores"
            work = f"{count(run['rows'], 'row')}, {count(run['seeds'], 'seed')}"
            return f"{run['minutes']:.0f} minutes for {work} ({place})"
    return "not measured"


def count(things: list, noun: str) -> str:
    """A number of things in words: "1 seed", "2 seeds"."""
    return f"{len(things)} {noun}{'s' * (len(things) != 1)}"


def check_space(config, need: dict, counts: dict, disk: float, device, jobs: int) -> list[str]:
    """Print what a run needs of memory and disk (GiB). Returns what is too little."""
    training = need["training"]
    # processes of torchrun do not share their pictures; forked jobs do
    here = int(os.environ["LOCAL_WORLD_SIZE"]) if optim.launched_processes() > 1 else 1
    pictures = here * evaluate.picture_memory(config, counts)
    print(
        f"\nthis run: {training:.1f} GiB for training in each of {jobs} job{'s' * (jobs > 1)}, "
        f"{pictures:.1f} GiB for the pictures, {need['disk']:.1f} GiB on disk"
    )
    free = optim.memory(device) or (math.inf, math.inf)
    ram = optim.memory("cpu") or (math.inf, math.inf)
    problems = []
    if need["disk"] > disk:
        problems.append(
            f"the disk has {disk:.1f} GiB free where about {need['disk']:.1f} are needed: choose "
            "another --out"
        )
    if pictures > ram[0]:
        problems.append(
            f"the pictures take {pictures:.1f} GiB of memory where {ram[0]:.1f} are free: lower "
            "--memory_gb, or read fewer (--train_identities, --pictures_each, --train_frames)"
        )
    if jobs > 1 and jobs * training > free[0]:
        problems.append(
            f"{jobs} jobs at once need {jobs * training:.1f} GiB where {free[0]:.1f} are free: "
            f"give --jobs {max(1, int(free[0] / training))}"
        )
    return problems


# ---------------------------------------------------------------- the dry run


def rehearse(config, sizes, device, jobs: int, rows: list, seeds: list) -> list[str]:
    """The dry run, with smaller batches where memory is short. Prints times, returns problems."""
    if jobs > 1:
        torch.set_num_threads(1)  # as each of the rows that are trained at once will have
    free = optim.memory(device) or (math.inf, math.inf)
    fitting = config
    minutes = None
    while fitting and not minutes:
        if players.needs(fitting, *sizes)["training"] > free[0]:
            fitting = players.halved(fitting)
            continue
        fewer = [
            f"{n} {getattr(fitting, n)} instead of {getattr(config, n)}" for n in SHARED_BATCHES[:2]
        ]
        shortage = "" if fitting is config else f", memory being short with {', '.join(fewer)}"
        print(f"dry run on {device}{shortage}:", flush=True)
        try:
            minutes = dry_run(fitting, *sizes, device, rows)
        except torch.OutOfMemoryError:
            fitting = players.halved(fitting)
        except ValueError as error:
            return [str(error)]
    if not minutes:
        return ["there is not enough memory for one picture at a time"]
    each = [minutes["Ours" if row == "Ours" else "fixed"] for row in rows]
    at_once = min(jobs, len(rows)) if device == "cpu" else 1  # rows on one GPU share its speed
    whole = len(seeds) * (minutes["start"] + sum(each)) / at_once
    print(
        f"at that speed: {minutes['start']:.0f} minutes before all rows, up to {max(each):.0f} a "
        f"row; about {whole:.0f} minutes for {count(rows, 'row')}, {count(seeds, 'seed')}, "
        f"{at_once} at a time (evaluation comes on top)"
    )
    most = " ".join(f"--{name} {getattr(fitting, name)}" for name in SHARED_BATCHES)
    short = f"memory is too short for its batches: at most {most}"
    return [] if fitting is config else [short]


def dry_run(config, people: int, classes: int, device, rows: list) -> dict[str, float]:
    """A few steps of everything that is trained; ValueError for a loss that is not finite.

    Returns the minutes that training would take: "start", before all rows; "Ours" and "fixed", a
    row with M and one with a baseline, as far as they are among `rows`.
    """
    n = max(config.batch_faces, config.warmup_faces, config.pretrain_recognizer_batch)
    faces = datasets.toy_faces(0, range(n), 1, config.face_size)
    side = round(math.sqrt(config.frame_height * config.frame_width))  # drawn frames are square
    actions = datasets.toy_actions(0, config.batch_frames, side, range(1))
    config = dataclasses.replace(config, sample_every=10**9)  # no pictures are written
    loop = TrialLoop("start")
    recognizer = players.make_recognizer(config, people).to(device)
    steps = config.pretrain_recognizer_steps
    attackers.train_recognizer(recognizer, faces, config, steps, loop, 0, device=device)
    detector = players.make_detector(config, max(classes, len(actions.classes))).to(device)
    trainer.pretrain_detector(detector, actions, config, loop, device)
    attackers.train_other(faces, config, loop, device)
    attackers.train_landmark_reader(faces, config, loop, device)
    minutes = {"start": loop.minutes}
    for kind in sorted({"Ours" if row == "Ours" else "fixed" for row in rows}):
        loop = TrialLoop(kind)
        anonymizer = players.make_modifier(config) if kind == "Ours" else make_baseline("Masked")
        game = trainer.Game(config, recognizer, detector, anonymizer, device)
        trainer.play(game, faces, actions, config, loop)
        attackers.train_attacker(recognizer, game.anonymizer, faces, config, loop, device)
        minutes[kind] = loop.minutes
    return minutes
