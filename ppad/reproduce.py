"""The main job, resumable: all players, all rows of Table 1, all figures.

    python -m ppad.reproduce [--preset toy] [--out runs/toy] [--rows Ours Masked ...] [--seed 0 1 2]

Finished parts are skipped: run the same command again after any stop, or with more rows or seeds.
ppad/README.md lists the files of a run folder.
"""

import argparse
import contextlib
import copy
import dataclasses
import functools
import json
import random
import statistics
import sys
import time
from pathlib import Path

import torch

from ppad import attackers, checkup, evaluate, figures, files, loop, optim, players, trainer
from ppad import config as presets
from ppad.baselines import BASELINES, identity, make_baseline
from ppad.config import VARIANTS
from ppad.crop_sampler import repaint
from ppad.folders import grouped
from ppad.loop import Loop, LoopError
from ppad.optim import GIB

ROWS = [*BASELINES, "Ours"]
KNOWN = [*BASELINES, *VARIANTS]
FEWER_ROWS = {"quick": ["Un-anonymized", "Blur(8x8)", "Masked", "Ours"]}  # presets' own defaults
START = ("minutes", "controls", "counts")  # keys of start.json
ROW = ("mAP", "AP", "verification_error", "structure", "attacks", "minutes", "peak_memory_gb")
PLAYERS = {  # parts of players.pt: folder of the checkpoint in a seed's folder, and name in it
    "modifier": ("Ours", "anonymizer"),
    "recognizer": ("Ours", "recognizer"),
    "detector": ("Ours", "detector"),
    "recognizer_start": ("start/recognizer", "network"),
    "detector_start": ("start/detector", "detector"),
    "other": ("judges/other_architecture", "network"),
    "reader": ("judges/landmark_reader", "network"),
    # if that row is run: an M of the paper's kind, for the lessons
    "plain_modifier": ("Ours_ascent", "anonymizer"),
    "plain_recognizer": ("Ours_ascent", "recognizer"),
    "plain_detector": ("Ours_ascent", "detector"),
}
PATHS = ("faces", "actions", "detector_weights", "recognizer_weights")  # fields that are paths


def parse(argv):
    """Parse the command line: (namespace, config). A wrong flag ends with a sentence, status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m ppad.reproduce",
        description=__doc__.split("\n")[0],
        allow_abbrev=False,
        epilog="Any field of the preset can be set: --T1 800 --l1_weight 3 (see ppad/config.py).",
    )
    parser.add_argument("--preset", default="toy", choices=sorted(presets.PRESETS))
    parser.add_argument("--out", type=Path, help="run folder (default runs/PRESET)")
    fewer = "; ".join(f"{preset}: {' '.join(rows)}" for preset, rows in FEWER_ROWS.items())
    rows_help = f"any of: {', '.join(KNOWN)} (default: all up to Ours; with preset {fewer})"
    parser.add_argument("--rows", nargs="+", metavar="ROW", choices=KNOWN, help=rows_help)
    own_help = "an anonymizer of your own as a row (see ppad/README.md); can be repeated"
    parser.add_argument(
        "--row", action="append", default=[], metavar="NAME=FILE.py:CLASS", help=own_help
    )
    parser.add_argument("--seed", nargs="+", type=int, default=[0], help="one or more seeds")
    parser.add_argument("--jobs", type=int, help="rows trained at once (default: as many as fit)")
    parser.add_argument("--check", action="store_true", help="only print what a run needs")
    presets.add_fields(parser)
    args = parser.parse_args(argv)
    fields = {field.name: getattr(args, field.name) for field in dataclasses.fields(presets.Paper)}
    if len(set(args.seed)) < len(args.seed) or not 0 <= min(args.seed) <= max(args.seed) < 2**63:
        parser.error("argument --seed: give different whole numbers, 0 or more and below 2^63")
    args.rows = args.rows or FEWER_ROWS.get(args.preset, ROWS)
    args.out = args.out or Path("runs") / args.preset
    return args, presets.from_flags(args.preset, fields)


# ---------------------------------------------------------------- one seed


class SeedRun:
    """One seed of a run: the networks that are trained before all rows, and each row.

    Each method trains what it returns, or reads it from its checkpoint if that is finished.
    data: None to load them. own: `evaluate.OwnRow` by name.
    """

    def __init__(self, config, folder: Path, seed: int, device, data=None, own=None):
        self.own = own or {}
        self.folder = folder
        self.seed = seed
        self.device = device
        self.data = evaluate.load_data(config, seed) if data is None else data
        self.config = presets.with_steps(config, len(self.data.actions))
        self.settings = {"seed": seed, **presets.deciding(presets.as_fields(self.config))}
        presets.check_counts(config, self.data.counts())
        optim.run_on_main(self.check_unchanged)

    def check_unchanged(self) -> None:
        """Raise LoopError if the data differ from those with which this folder began."""
        path = self.folder / "data.json"
        data = self.data
        found = {**data.counts(), "classes": data.actions.classes, **data.fingerprints()}
        if not path.exists():
            files.write_file(path, json.dumps(found, indent=1))
        before = files.read_json(path, needs=found)
        for name, now in found.items():
            if now != before[name]:
                raise LoopError(
                    f"{name} was {before[name]} when this run began and is {now} now: restore the "
                    "pictures and tables that were there, or choose another --out"
                )

    def loop(self, place: str, title: str = "", **changes) -> Loop:
        """The training loop in the subfolder `place`; changes: settings that differ."""
        times = (self.config.log_every, self.config.checkpoint_seconds)
        return Loop(self.folder / place, title, self.seed, self.settings | changes, *times)

    def recognizer(self):
        """D trained on originals, from which every row starts."""
        torch.manual_seed(self.seed)
        people = self.data.counts()["train_people"]
        recognizer = players.make_recognizer(self.config, people).to(self.device)
        steps = self.config.pretrain_recognizer_steps
        training = self.loop("start/recognizer", "start: D")
        return attackers.train_recognizer(
            recognizer, self.data.faces, self.config, steps, training, self.seed, device=self.device
        )

    def detector(self):
        """A trained on originals, from which every row starts."""
        torch.manual_seed(self.seed)
        classes = len(self.data.actions.classes)
        detector = players.make_detector(self.config, classes).to(self.device)
        training = self.loop("start/detector", "start: A")
        return trainer.pretrain_detector(
            detector, self.data.actions, self.config, training, self.device
        )

    def other(self):
        """The recognizer of another architecture, trained on originals."""
        training = self.loop("judges/other_architecture", "judge: other")
        return attackers.train_other(self.data.faces, self.config, training, self.device)

    def landmark_reader(self):
        """The landmark reader, trained on originals."""
        training = self.loop("judges/landmark_reader", "judge: landmarks")
        return attackers.train_landmark_reader(self.data.faces, self.config, training, self.device)

    def judges(self) -> evaluate.Judges:
        """The networks that measure all rows."""
        return evaluate.Judges(self.recognizer(), self.other(), self.landmark_reader())

    def controls(self) -> None:
        """Write start.json, once: evaluators on originals, and minutes of training before rows."""
        path = self.folder / "start.json"
        if path.exists():
            return
        judges = self.judges()
        places = [place for place, _ in PLAYERS.values() if "/" in place]
        states = [loop.read_checkpoint(self.folder / place / "checkpoint.pt") for place in places]
        start = {
            "minutes": sum(state["seconds"] for state in states) / 60,
            "controls": evaluate.controls(judges, self.data, self.config, self.device),
            "counts": self.data.counts(),
        }
        files.write_file(path, json.dumps(start, indent=1))

    def make_anonymizer(self, name: str):
        """A row's anonymizer before the game, the same at each call."""
        torch.manual_seed(self.seed)  # the same weights in all processes
        if name in VARIANTS:
            return players.make_modifier(dataclasses.replace(self.config, **VARIANTS[name]))
        if name in self.own:
            return self.own[name].make(self.device)
        return make_baseline(name, seed=self.seed)

    def row(self, name: str) -> None:
        """Train and evaluate one row unless it is finished, and print its line of Table 1."""
        path = self.folder / files.file_name(name) / "row.json"
        file = {"file": self.own[name].checksum} if name in self.own else {}
        if not optim.run_on_main(path.exists):
            self.train_row(name, path, file)
        row = files.read_json(path, needs=ROW)
        if not file.items() <= row.items():
            fault = f"was made with another file or class of --row {name}"
            raise LoopError(f"{path} {fault}: restore it, or choose a new name")
        if optim.is_main_process():
            files.print_progress(figures.screen_line(name, row), end=True)

    def train_row(self, name: str, path: Path, file: dict) -> None:
        """Train and evaluate one row, write the result to `path`. file: an own row's checksum."""
        began = time.monotonic()
        changes = VARIANTS.get(name, {})
        config = dataclasses.replace(self.config, **changes)
        faces = self.data.faces
        place = path.parent.name
        played = self.loop(place, name, **changes, **file)
        attack = self.loop(f"{place}/retrained", f"{name}: attacker", **changes, **file)
        inverting = self.loop(f"{place}/inverting", f"{name}: inverter", **changes, **file)
        judges = self.judges()
        detector = self.detector()
        anonymizer = self.make_anonymizer(name)
        start = copy.deepcopy(judges.never_saw)
        game = trainer.Game(config, start, detector, anonymizer, self.device)
        trainer.play(game, faces, self.data.actions, config, played)
        if name in VARIANTS:
            anonymizer.eval().requires_grad_(False)
        attacker = attackers.train_attacker(
            judges.never_saw, anonymizer, faces, config, attack, self.device
        )
        inverter = attackers.train_inverter(anonymizer, faces, self.config, inverting, self.device)

        def judge():
            row = {"name": name, "seed": self.seed, **file} | evaluate.judge_row(
                game, attacker, inverter, judges, self.data, config, self.seed, path.parent
            )
            trained = played.seconds + attack.seconds + inverting.seconds  # of all commands
            row["minutes"] = max(time.monotonic() - began, trained) / 60
            row["peak_memory_gb"] = optim.peak_memory()
            gpu = self.device if torch.device(self.device).type == "cuda" else None
            row["gpu_peak_gb"] = round(torch.cuda.max_memory_allocated(gpu) / GIB, 2) or None
            files.write_file(path, json.dumps(row, indent=1))

        optim.run_on_main(judge)

    def trained(self, place: str, part: str) -> dict:
        """State dict of a part of the checkpoint in the subfolder `place`."""
        return loop.read_checkpoint(self.folder / place / "checkpoint.pt")["parts"][part]

    def finished(self, name: str):
        """A finished row's anonymizer."""
        anonymizer = self.make_anonymizer(name)
        if name in VARIANTS:
            anonymizer.load_state_dict(self.trained(files.file_name(name), "anonymizer"))
            anonymizer.to(self.device).eval().requires_grad_(False)
        return anonymizer

    def inverter(self, name: str):
        """The network of a finished row's inverting attackers."""
        inverter = attackers.make_inverter(self.config)
        inverter.load_state_dict(self.trained(f"{files.file_name(name)}/inverting", "network"))
        return inverter.to(self.device).eval().requires_grad_(False)

    @torch.no_grad()
    def faces(self, indices: list[int], anonymizer=identity) -> torch.Tensor:
        """Anonymized test faces, (n, 3, S, S) on the CPU."""
        pictures, _, _ = self.data.test_faces.batch(indices, device=self.device)  # (n, 3, S, S)
        return anonymizer(pictures).cpu()

    @torch.no_grad()
    def frames(self, indices: list[int], anonymizer=identity) -> torch.Tensor:
        """Test frames with repainted faces, (n, 3, H, W) on the CPU."""
        frames, _, boxes = self.data.test_actions.batch(indices, device=self.device)
        return repaint(frames, boxes, anonymizer).cpu()


# ---------------------------------------------------------------- results


def collect(args, config, rows: list, device, jobs: int) -> dict:
    """The content of results.json: `rows` of all seeds, from the files in the run folder."""
    folders = [args.out / f"seed{seed}" for seed in args.seed]
    starts = [files.read_json(folder / "start.json", needs=START) for folder in folders]
    by_name = {
        name: [files.read_json(folder / files.file_name(name) / "row.json") for folder in folders]
        for name in rows
    }
    every_row = [row for per_seed in by_name.values() for row in per_seed]
    minutes = {
        name: round(statistics.mean(row["minutes"] for row in per_seed), 2)
        for name, per_seed in by_name.items()
    }
    processes = optim.world_size()
    # memory that processes share is counted in each of them
    memory = jobs * processes * max(row["peak_memory_gb"] or 0 for row in every_row)
    usage = {"jobs": jobs, "peak_memory_gb": round(memory, 2)}
    if gpu_memory := max(row.get("gpu_peak_gb") or 0 for row in every_row):
        usage["gpu_peak_gb_a_row"] = gpu_memory
    if processes > 1:
        usage["processes"] = processes
    fields = presets.as_fields(config)  # results.json is shared: paths keep only their last name
    return {
        "preset": args.preset,
        "hardware": optim.hardware(device) | usage,
        "versions": optim.versions(),
        "minutes": round(files.read_json(args.out / "minutes.json")["minutes"], 2),  # all commands
        "core_minutes": round(sum(one["minutes"] for one in starts + every_row), 2),
        "minutes_by_row": minutes,
        "seeds": args.seed,
        "budget": presets.budget(config),
        "counts": starts[0]["counts"],
        "rows": [evaluate.summarize(per_seed) for per_seed in by_name.values()],
        "controls": [start["controls"] for start in starts],
        "config": {name: Path(v).name if name in PATHS else v for name, v in fields.items()},
    }


def draw(run: SeedRun, out: Path, results: dict, rows: list[str]) -> None:
    """Draw the figures of a finished run, from test pictures of its first seed."""
    torch.manual_seed(run.seed)  # an M that draws gives the same faces at each call
    best = "Ours" if "Ours" in rows else rows[-1]
    people = grouped(run.data.test_faces.identities.tolist()).values()
    faces = [pictures[0] for pictures in eight_of(people)]
    groups = [pictures[:6] for pictures in eight_of(p for p in people if len(p) >= 4)]
    actions = run.data.test_actions
    with_face = [i for i, boxes in enumerate(actions.face_boxes) if len(boxes)]
    clips = [  # folders of four or more frames, but not of stills (named after an action)
        [with_face[i] for i in frames[:4]]
        for folder, frames in grouped(Path(actions.names[i]).parent for i in with_face).items()
        if len(frames) >= 4 and folder.name not in ("", *actions.classes)
    ]
    scenes = [clip[i] for i, clip in enumerate(eight_of(clips)[:4])] or eight_of(with_face)[:4]
    columns = {}
    inverted = {}
    for name in rows:
        anonymizer = run.finished(name)
        columns[name] = run.faces(faces[:4], anonymizer)  # (4, 3, S, S)
        modified = columns[name][:2]  # (2, 3, S, S)
        restored = run.inverter(name)(modified.to(run.device)).cpu()
        inverted[name] = torch.stack([modified, restored], dim=1).flatten(0, 1)
    anonymizer = run.finished(best)
    figures.fig3(columns, out / "fig3.png")
    figures.fig3(inverted, out / "inverted.png", sides=["modified", "inverted"] * 2)
    figures.fig4(results, out / "fig4.png")
    frames = (run.frames(scenes), run.frames(scenes, anonymizer)) if scenes else None
    figures.fig5(run.faces(faces), run.faces(faces, anonymizer), out / "fig5.png", frames=frames)
    (out / "fig6.png").unlink(missing_ok=True)
    if groups:
        figures.fig6(
            [run.faces(group, anonymizer) for group in groups[:4]],
            out / "fig6.png",
            [run.frames(clip, anonymizer) for clip in eight_of(clips)[:2]],
        )
    log = loop.read_log(run.folder / files.file_name(best) / "log.jsonl")
    figures.training_curves(log, out / "curves.png")


def eight_of(things) -> list:
    """Choose at most eight of `things`, the same at each call."""
    things = list(things)
    return random.Random(0).sample(things, min(8, len(things)))


# ---------------------------------------------------------------- the command


def main(argv=None) -> int:
    """Run the main job. Returns its exit status."""
    return loop.exit_status(lambda: run(*parse(argv)))


def run(args, config) -> None:
    """Train all seeds and rows, then write tables and figures."""
    own = {}
    for row in (evaluate.read_own_row(text, config.face_size) for text in args.row):
        reserved = ("start", "judges", "data.json", "start.json", *KNOWN, *own)
        taken = [files.file_name(name).casefold() for name in reserved]
        if files.file_name(row.name).casefold() in taken:  # some systems ignore case
            raise ValueError(f"--row {row.name}: that name is taken: choose another")
        own[row.name] = row
    rows = [name for name in KNOWN if name in args.rows] + list(own)  # the paper's order
    device, jobs = choose_device_and_jobs(args, config)  # own rows may have used CUDA
    if args.check:
        if optim.launched_processes() > 1:
            raise ValueError("--check needs a single process: give the command without torchrun")
        checkup.check(args, config, rows, device, jobs)
        return
    if missing := presets.missing_weights(config):
        raise ValueError("; ".join(missing.values()))
    optim.init_distributed(device, config)
    is_main = optim.is_main_process()
    with files.lock(args.out) if is_main else contextlib.nullcontext():
        optim.run_on_main(functools.partial(open_folder, args.out, args.preset, config))
        minutes = args.out / "minutes.json"
        with loop.counted_minutes(minutes) if is_main else contextlib.nullcontext():
            first = train_rows(args, config, rows, own, device, jobs)
        if is_main:
            results = collect(args, first.config, rows, device, jobs)
            report(first, args.out, results, rows)
    optim.shut_down()


def train_rows(args, config, rows: list, own: dict, device, jobs: int) -> SeedRun:
    """Train and evaluate what is unfinished, seed by seed. Returns the first seed's run."""
    first = None
    for seed in args.seed:
        data = first.data if first and not config.drawn else None  # seeds share data from folders
        seed_run = SeedRun(config, args.out / f"seed{seed}", seed, device, data, own)
        first = first or seed_run
        starts = (seed_run.detector, seed_run.recognizer, seed_run.other, seed_run.landmark_reader)
        loop.side_by_side({f"start: {train.__name__}": train for train in starts}, jobs)
        loop.side_by_side(
            {"controls": functools.partial(optim.run_on_main, seed_run.controls)}, jobs
        )
        # rows with an M take longest, so they start first, beside the others
        order = sorted(rows, key=lambda name: name not in VARIANTS)
        if optim.is_main_process():
            files.print_progress(figures.screen_line(f"Method, seed {seed}"), end=True)
        loop.side_by_side({name: functools.partial(seed_run.row, name) for name in order}, jobs)
    return first


def choose_device_and_jobs(args, config) -> tuple[str, int]:
    """The device and the number of jobs, as given or chosen. ValueError for what cannot work."""
    device = config.device
    if device != "auto":
        optim.check_device(device)
    gpu = 0.0 if device == "cpu" else optim.gpu_memory("cuda" if device == "auto" else device)
    if device == "auto":
        device = "cuda" if gpu else "cpu"
    if device.startswith("cuda") and not gpu:
        raise ValueError(f"device is '{device}', but torch sees no GPU here: use --device cpu")
    jobs = args.jobs
    if jobs is None:
        need = {} if device == "cpu" else evaluate.needs(config, **evaluate.ASSUMED)
        jobs = optim.default_jobs(device, gpu, need)
    if jobs < 1 or jobs > 1 and optim.launched_processes() > 1:
        raise ValueError(f"--jobs is {jobs}: it must be at least 1, and 1 under torchrun")
    return device, jobs


def open_folder(out: Path, preset: str, config) -> None:
    """Write the settings into the run's folder. ValueError if it holds a run with others."""
    checkup.check_free(out, preset, config)
    files.write_file(out / "config.json", presets.as_json(config, preset))
    for path in [*out.glob(".*"), *out.glob("seed*/**/.*")]:
        files.unlink_unfinished(path)  # from when this run was killed


def report(first: SeedRun, out: Path, results: dict, rows: list[str]) -> None:
    """Write figures, tables, players.pt and, last, results.json; print the tables."""
    warn_of_changes(out / "results.json", results)
    draw(first, out, results, rows)
    texts = {name: make(results) for name, make in figures.TABLES.items()}
    for name, text in texts.items():
        files.write_file(out / name, text)
    (out / "players.pt").unlink(missing_ok=True)  # an earlier command's, perhaps of other seeds
    if "Ours" in rows:
        done = list(map(files.file_name, rows))
        places = {name: at for name, at in PLAYERS.items() if "/" in at[0] or at[0] in done}
        parts = {name: first.trained(*at) for name, at in places.items()}
        loop.save_players(out / "players.pt", results["config"], parts)
    files.write_file(out / "results.json", json.dumps(results, indent=1))
    written = [name for name in checkup.OUTPUTS if (out / name).exists()]
    print("", *texts.values(), f"{', '.join(written)} are in {out}.", sep="\n")


def warn_of_changes(path: Path, results: dict) -> None:
    """Warn of mixed versions, and of rows and seeds that `path` has and `results` lack."""
    versions = {json.dumps(one) for row in results["rows"] for one in row["made_with"] if one}
    if len(versions) > 1:
        fault = "the rows were made with different versions or on different machines"
        print(f"{fault}, see made_with in {path}: they may differ by rounding", file=sys.stderr)
    if not path.exists():
        return
    before = files.read_json(path, needs=["rows", "seeds"])
    names = [row["name"] for row in results["rows"]]
    lost = [row["name"] for row in before["rows"] if row["name"] not in names]
    lost += [f"seed {seed}" for seed in before["seeds"] if seed not in results["seeds"]]
    if lost:
        fix = "ask for them too, which takes no training, to have them in the tables again"
        print(f"{path} loses {', '.join(lost)}: {fix}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
