"""What a run needs and whether this machine has it: `python -m ppad.reproduce --check`.

It prints the machine's hardware and versions; the counts of the preset's data, which are not
decoded; and the memory and disk space needed. A dry run then times a few steps of each stage on
drawn pictures and estimates the run's hours, its FLOP as torch counts them, and their share of the
device's speed. Nothing is written. One sentence at the end names all that would stop the run.
"""

import dataclasses
import math
import shutil
from pathlib import Path

import torch

from ppad import attackers, datasets, evaluate, figures, files, optim, players, trainer
from ppad import config as presets
from ppad.baselines import make_baseline
from ppad.config import VARIANTS
from ppad.loop import TrialLoop
from ppad.optim import GIB

FIGURES = ("fig3.png", "fig4.png", "fig5.png", "fig6.png", "inverted.png", "curves.png")
OUTPUTS = ("results.json", *figures.TABLES, "players.pt", *FIGURES)  # of a run
NETWORKS = "networks in training"  # how a sentence on their memory begins


def check(args, config, rows: list, device: str, jobs: int) -> None:
    """Print everything. Raises ValueError naming all problems that would stop this preset here.

    args: the command line, from `reproduce.parse`.
    """
    problems = []

    def attempt(step, *given):
        try:
            return step(*given)
        except (ValueError, OSError) as error:
            problems.append(str(error))

    disk = shutil.disk_usage(files.existing(args.out)).free / GIB
    machine = optim.hardware(device)
    print(", ".join(f"{name} {version}" for name, version in optim.versions().items()))
    print("processor: {cpu}, {cores} cores; GPU: {}".format(machine.get("gpu", "none"), **machine))
    print("memory: {:.1f} GiB free of {:.1f}".format(*optim.memory("cpu")))
    print(f"disk: {disk:.1f} GiB free for {args.out}")
    attempt(files.check_writable, args.out)
    attempt(check_free, args.out, args.preset, config)
    counts = attempt(evaluate.count_data, config)
    if counts:
        print(
            "{train_faces} faces of {train_people} people to train on, {test_faces} and {pairs} "
            "pairs to test; {train_frames} and {test_frames} frames of {classes} actions".format(
                **counts
            )
        )
        attempt(presets.check_counts, config, counts)
    else:
        counts = {**evaluate.ASSUMED, **dict.fromkeys(evaluate.SETS, 0)}
    config = presets.with_steps(config, counts["train_frames"])
    missing = presets.missing_weights(config)
    problems += missing.values()
    config = dataclasses.replace(config, **dict.fromkeys(missing, ""))
    short = check_space(config, counts, disk, device, jobs, len(rows) * len(args.seed))
    problems += short
    if not any(sentence.startswith(NETWORKS) for sentence in short):  # the dry run fits
        attempt(rehearse, config, counts, device, jobs, rows, args.seed)
    if problems:
        raise ValueError(f"{args.preset} cannot run here as it is: {'; '.join(problems)}")
    print("\nNothing is missing.")


def check_free(out: Path, preset: str, config) -> None:
    """Raise ValueError if `out` holds a run with other settings, or outputs without a run."""
    settings = out / "config.json"
    outputs = [name for name in OUTPUTS if (out / name).exists()]
    begun = any(out.glob("seed*"))  # else a run stopped before its data were read
    if outputs and not begun and not settings.exists():  # such as the reference results
        raise ValueError(f"{out} holds {outputs[0]} but no config.json: choose another --out")
    if settings.exists() and (begun or outputs):
        if different := "; ".join(presets.differences(config, preset, settings)):
            fault = f"{out} holds a run with other settings ({different})"
            raise ValueError(f"{fault}: choose another --out")


def check_space(config, counts: dict, disk: float, device, jobs: int, rows: int) -> list[str]:
    """Print the memory and disk space (GiB) that a run needs. Returns sentences on shortages."""
    need = evaluate.needs(config, counts["train_people"], counts["classes"], rows)
    training = jobs * need["training"]
    # each attacker's features of all test faces, original and anonymized
    judging = jobs * len(evaluate.ATTACKERS) * 2 * counts["test_faces"] * 8 * config.embedding / GIB
    # stored: test faces, repainted and inverted; training faces and their mirror images, repainted
    face = config.face_size**2
    crop = face if config.landmark_jitter else math.prod(config.crop_size)
    repainted = 2 * 3 * (counts["test_faces"] * face + counts["train_faces"] * crop) / GIB
    space = need["disk"] + jobs * repainted
    pictures = picture_memory(config, counts)
    print(
        f"\nthis run, GiB: {training:.1f} for training and {judging:.1f} for judging "
        f"({jobs} at once), {pictures:.1f} for the pictures, {space:.1f} on disk"
    )
    fewer = "lower --memory_gb, or read fewer (--train_identities, --pictures_each, --train_frames)"
    less = "give fewer --jobs, --checkpointing true, --accumulate 2 or smaller batches"
    checks = (
        ("files on disk", space, disk, "choose another --out"),
        ("pictures and judging", pictures + judging, optim.memory("cpu")[0], fewer),
        (NETWORKS, training, optim.memory(device)[0], less),
    )
    return [
        f"{what} need {needed:.1f} GiB where {free:.1f} are free: {fix}"
        for what, needed, free, fix in checks
        if needed > free
    ]


def picture_memory(config, counts: dict) -> float:
    """GiB of pictures in memory, one byte per value; at most `memory_gb` if read from folders."""
    faces = counts["train_faces"] + counts["test_faces"]
    frames = counts["train_frames"] + counts["test_frames"]
    values = faces * config.face_size**2 + frames * config.frame_height * config.frame_width
    return min(3 * values / GIB, math.inf if config.drawn else config.memory_gb)


# ---------------------------------------------------------------- the dry run


def rehearse(config, counts: dict, device, jobs: int, rows: list, seeds: list) -> None:
    """Do the dry run and print times and FLOP."""
    if jobs > 1:
        torch.set_num_threads(1)  # as for rows that are trained at the same time
    print(f"dry run on {device}:", flush=True)
    trials = dry_run(config, counts, device, rows)
    each = [trials[row if row in VARIANTS else "fixed"] for row in rows]
    at_once = min(jobs, len(rows)) if device == "cpu" else 1  # rows on a GPU share its speed
    minutes = len(seeds) * sum(one.minutes for one in [trials["start"], *each])
    flop = len(seeds) * sum(one.flop for one in [trials["start"], *each])
    speed = optim.measured_speed(config, device)
    print(
        f"at that speed: {trials['start'].minutes:.0f} minutes before all rows, up to "
        f"{max(one.minutes for one in each):.0f} a row; about {minutes / at_once:.0f} minutes "
        f"({minutes / at_once / 60:.1f} hours) for {len(rows)} row(s), {len(seeds)} seed(s), "
        f"{at_once} at a time\n{flop:.1e} FLOP, at {flop / (60 * minutes * speed):.0%} of the "
        f"{speed / 1e9:.0f} GFLOP a second that this device reaches in a large matrix product"
    )


def dry_run(config, counts: dict, device, rows: list) -> dict[str, TrialLoop]:
    """Run a few steps of everything that takes time.

    Returns estimates: "start" before all rows, one by name for each row with an M, and "fixed" for
    each other row.
    """
    n = max(config.batch_faces, config.warmup_faces, config.pretrain_recognizer_batch)
    faces = datasets.toy_faces(0, range(n), 1, config.face_size)
    faces.identities %= max(2, counts["train_people"])  # a batch may hold more faces than people
    side = round(math.sqrt(config.frame_height * config.frame_width))  # drawn frames are square
    actions = datasets.toy_actions(0, config.batch_frames, side, range(1))
    config = dataclasses.replace(config, sample_every=10**9)  # write no sample pictures
    loop = TrialLoop("start")
    trials = {"start": loop}
    recognizer = players.make_recognizer(config, max(2, counts["train_people"])).to(device)
    steps = config.pretrain_recognizer_steps
    attackers.train_recognizer(recognizer, faces, config, steps, loop, 0, device=device)
    detector = players.make_detector(config, max(counts["classes"], len(actions.classes)))
    trainer.pretrain_detector(detector.to(device), actions, config, loop, device)
    attackers.train_other(faces, config, loop, device)
    attackers.train_landmark_reader(faces, config, loop, device)
    pictures, _, _ = faces.batch(torch.arange(min(n, config.eval_batch)), device=device)
    frames, _, _ = actions.batch(torch.arange(config.batch_frames), device=device)
    for kind in sorted({row if row in VARIANTS else "fixed" for row in rows}):
        loop = trials[kind] = TrialLoop(kind)
        own = dataclasses.replace(config, **VARIANTS.get(kind, {}))
        anonymizer = make_baseline("Masked") if kind == "fixed" else players.make_modifier(own)
        game = trainer.Game(own, recognizer, detector, anonymizer, device)
        trainer.play(game, faces, actions, own, loop)
        attackers.train_attacker(recognizer, game.anonymizer, faces, own, loop, device)
        repainted = counts["test_faces"]
        if not getattr(game.anonymizer, "stochastic", False):  # else it is called at each step
            repainted += 2 * counts["train_faces"]  # and their mirror images, once
        attackers.train_inverter(game.anonymizer, faces, config, loop, device)
        with torch.no_grad():
            for _ in loop.steps("repaint", math.ceil(repainted / len(pictures))):
                game.anonymizer(pictures)
            for _ in loop.steps("detect", math.ceil(counts["test_frames"] / len(frames))):
                game.detector.detect(frames)
    return trials
