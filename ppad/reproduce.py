"""The main job: every player, every row of Table 1, every figure, in order, resumable.

    python -m ppad.reproduce [--preset toy|photo|paper] [--out runs/toy] [--rows Ours Masked ...] [--seed 0 1 2]

What is done is skipped: run the same command again after any stop, or with more rows or seeds. The run
folder holds `config.json`, a folder for each seed with one for each row in it (log, checkpoints, pictures),
and at the end `results.json`, `table1.md` and the figures.
"""

import argparse
import copy
import dataclasses
import functools
import io
import json
import random
import sys
import time
from pathlib import Path

import numpy as np
import torch

from ppad import checkup, datasets, evaluate, figures, ranks, trainer
from ppad import config as presets
from ppad.attacks import train_recognizer
from ppad.baselines import BASELINES, make_baseline
from ppad.jobs import gpu_memory, how_many, in_one_sentence, together
from ppad.loop import Loop, LoopError, read_checkpoint, read_log, read_whole, write_whole

ROWS = [*BASELINES, "Ours"]
PLAYERS = {
    "modifier": ("Ours", "anonymizer"),
    "recognizer": ("Ours", "recognizer"),
    "detector": ("Ours", "detector"),
    "recognizer_start": ("start", "recognizer", "recognizer"),
    "detector_start": ("start", "detector", "detector"),
    "other": ("judges", "other_architecture", "recognizer"),
    "reader": ("judges", "landmark_reader", "reader"),
}
OUTPUTS = (
    "results.json",
    "table1.md",
    "players.pt",
    "fig3.png",
    "fig4.png",
    "fig5.png",
    "fig6.png",
    "curves.png",
)
PATHS = (
    "faces",
    "actions",
    "detector_weights",
)  # kept by name only: results.json is there to be passed on


def parse(argv):
    """Command line to (namespace, config). An unknown flag or value ends with one sentence and status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m ppad.reproduce",
        description=__doc__.split("\n")[0],
        allow_abbrev=False,
        epilog="Any field of the preset can be set: --T1 800 --l1_weight 3 (see ppad/config.py).",
    )
    parser.add_argument("--preset", default="toy", choices=sorted(presets.PRESETS))
    parser.add_argument("--out", type=Path, default=None, help="run folder (default runs/PRESET)")
    parser.add_argument(
        "--rows",
        nargs="+",
        default=ROWS,
        metavar="ROW",
        choices=ROWS,
        help=f"any of: {', '.join(ROWS)}",
    )
    parser.add_argument(
        "--seed",
        nargs="+",
        type=int,
        default=[0],
        help="one or more seeds; figures show their mean and std",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=None,
        help="rows trained side by side, one CPU thread each (default on "
        "Linux: one a core, or what the GPU holds, at most 4; else 1; 1 = here, with torch's own threads)",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="only say what is here, what is missing and how long it would take",
    )
    presets.add_fields(parser)
    args = parser.parse_args(argv)
    fields = {field.name: getattr(args, field.name) for field in dataclasses.fields(presets.Paper)}
    args.out = args.out or Path("runs") / args.preset
    return args, presets.build(args.preset, **fields)


def load_data(config, seed: int) -> evaluate.Data:
    """F, V and their test halves, drawn or read. Raises DataError naming what is missing."""
    if config.drawn:
        train, test = config.train_identities, config.test_identities
        faces = datasets.toy_faces(seed, range(train), config.pictures_each, config.face_size)
        test_faces = datasets.toy_faces(
            seed, range(train, train + test), config.test_pictures_each, config.face_size
        )
        pairs = datasets.toy_pairs(
            test_faces, config.folds, config.test_pairs // (2 * config.folds), seed
        )
        actions = datasets.toy_actions(seed, config.train_frames, config.frame_height, range(train))
        test_actions = datasets.toy_actions(
            seed,
            config.test_frames,
            config.frame_height,
            range(train, train + test),
            start=config.train_frames,
        )
        return evaluate.Data(faces, actions, test_faces, test_actions, pairs)
    root, stills, frame = (
        Path(config.faces),
        Path(config.actions),
        (config.frame_height, config.frame_width),
    )
    for path in checkup.data_files(config):
        if not path.exists():
            raise datasets.DataError(
                f"{path} does not exist: give --faces and --actions prepared folders (see the README)"
            )
    tables, room = (stills / "annotations.csv", stills / "faces.csv"), config.memory_gb * 2**30

    def read(reader, *what, **how):
        nonlocal room
        one = reader(*what, **how, memory=room, workers=config.workers)
        if one.lazy:
            print(
                f"{what[0]}: {one.nbytes / 2**30:.1f} GiB of pictures stay in their files (memory_gb is {config.memory_gb:g})",
                file=sys.stderr,
            )
        else:
            room -= one.nbytes
        return one

    faces = read(
        datasets.read_faces,
        root / "train",
        root / "landmarks.csv",
        config.face_size,
        config.train_identities,
        config.pictures_each,
        on_bad="skip",
    )
    test_faces = read(datasets.read_faces, root / "test", root / "landmarks.csv", config.face_size)
    actions = read(
        datasets.read_actions, stills, *tables, "train", frame, config.train_frames, on_bad="skip"
    )
    test_actions = read(datasets.read_actions, stills, *tables, "test", frame, config.test_frames)
    for line in faces.skipped + actions.skipped:
        print(f"skipped: {line}", file=sys.stderr)
    return evaluate.Data(
        faces,
        actions,
        test_faces,
        test_actions,
        datasets.read_pairs(root / "pairs_test.txt", test_faces),
    )


class SeedRun:
    """Everything of one seed: the pretrained start, the judges, the rows, each in its own folder and done once."""

    def __init__(self, config, folder: Path, seed: int, device, data: evaluate.Data | None = None):
        self.config, self.folder, self.seed, self.device = config, folder, seed, device
        self.settings = {"seed": seed, **presets.deciding(dataclasses.asdict(config))}
        self.data = load_data(config, seed) if data is None else data
        presets.check_counts(config, len(self.data.faces), len(self.data.actions))
        self.people, self.classes = (
            int(self.data.faces.identities.max()) + 1,
            len(self.data.actions.classes),
        )

    def loop(self, *names, title) -> Loop:
        return Loop(
            self.folder.joinpath(*names),
            title,
            self.seed,
            self.settings,
            self.config.log_every,
            self.config.checkpoint_seconds,
        )

    def recognizer(self):
        """D trained on originals, where every row starts."""
        torch.manual_seed(self.seed)
        recognizer = trainer.make_recognizer(self.config, self.people).to(self.device)
        batches = datasets.Batches(
            len(self.data.faces), self.config.pretrain_recognizer_batch, seed=self.seed
        )
        return train_recognizer(
            recognizer,
            self.data.faces,
            batches,
            self.config,
            self.config.pretrain_recognizer_steps,
            self.loop("start", "recognizer", title="start: D"),
            device=self.device,
        )

    def detector(self):
        """A trained on originals, where every row starts."""
        torch.manual_seed(self.seed)
        detector = trainer.make_detector(self.config, self.classes).to(self.device)
        return trainer.pretrain_detector(
            detector,
            self.data.actions,
            self.config,
            self.loop("start", "detector", title="start: A"),
            self.device,
        )

    def other(self):
        """The judge of another architecture."""
        loop = self.loop("judges", "other_architecture", title="judge: other")
        return evaluate.train_other(self.data, self.config, loop, self.device)

    def reader(self):
        """The judge of structure."""
        loop = self.loop("judges", "landmark_reader", title="judge: landmarks")
        return evaluate.train_landmark_reader(self.data, self.config, loop, self.device)

    def judges(self) -> evaluate.Judges:
        """The judges all rows share; each is trained once and read from its checkpoint afterwards."""
        return evaluate.Judges(self.recognizer(), self.other(), self.reader())

    def controls(self) -> None:
        """What the judges make of originals, once (by the first process alone, as all that is no training)."""
        path = self.folder / "start.json"
        if not path.exists():
            minutes = sum(
                self.loop(*names, title="").finished_minutes()
                for names in (
                    ("start", "recognizer"),
                    ("start", "detector"),
                    ("judges", "other_architecture"),
                    ("judges", "landmark_reader"),
                )
            )
            report = evaluate.controls(self.judges(), self.data, self.config, self.device)
            write_whole(
                path,
                json.dumps(
                    {"minutes": minutes, "controls": report, "counts": self.counts()}, indent=1
                ),
            )

    def counts(self) -> dict:
        data = self.data
        return {
            "train_faces": len(data.faces),
            "train_people": self.people,
            "test_faces": len(data.test_faces),
            "test_people": len(set(data.test_faces.identities.tolist())),
            "pairs": len(data.pairs),
            "pairs_dropped": len(data.pairs.dropped),
            "train_frames": len(data.actions),
            "test_frames": len(data.test_actions),
            "skipped": len(data.faces.skipped) + len(data.actions.skipped),
        }

    def row(self, name: str) -> dict:
        """Train and judge one row, or read it where it is done."""
        folder = self.folder / file_name(name)
        path = folder / "row.json"
        if ranks.first_does(path.exists):
            return read_whole(path)
        began, judges = time.monotonic(), self.judges()
        torch.manual_seed(self.seed)
        anonymizer = (
            trainer.make_modifier(self.config)
            if name == "Ours"
            else make_baseline(name, seed=self.seed)
        )
        game = trainer.Game(
            self.config, copy.deepcopy(judges.never_saw), self.detector(), anonymizer, self.device
        )
        played = self.loop(file_name(name), title=name)
        trainer.play(game, self.data.faces, self.data.actions, self.config, played)
        if name == "Ours":
            game.anonymizer.eval().requires_grad_(False)
        attack = self.loop(file_name(name), "retrained", title=f"{name}: attacker")
        attacker = evaluate.train_attacker(
            judges.never_saw, game.anonymizer, self.data, self.config, attack, self.device
        )

        def judge():
            row = evaluate.judge_row(
                name, game, attacker, judges, self.data, self.config, self.seed, self.device
            )
            row["minutes"] = max(
                (time.monotonic() - began) / 60, (played.seconds + attack.seconds) / 60
            )
            row |= {
                "peak_memory_gb": checkup.peak_memory(),
                "gpu_peak_gb": checkup.gpu_peak(self.device),
            }
            write_whole(path, json.dumps(row, indent=1))
            return row

        return ranks.first_does(judge)

    def anonymizer(self, name: str):
        """A finished row's anonymizer, for the figures."""
        if name != "Ours":
            return make_baseline(name, seed=self.seed)
        modifier = trainer.make_modifier(self.config)
        modifier.load_state_dict(self._done(file_name(name))["anonymizer"])
        return modifier.to(self.device).eval().requires_grad_(False)

    def players(self) -> bytes:
        """Every network of a seed whose Ours is done, half precision: what lessons and `anonymize --run` read."""
        parts = {name: self._done(*place)[part] for name, (*place, part) in PLAYERS.items()}
        small = {
            name: {
                key: value.half() if value.is_floating_point() else value
                for key, value in part.items()
            }
            for name, part in parts.items()
        }
        file = io.BytesIO()
        torch.save({"config": named_only(dataclasses.asdict(self.config)), "parts": small}, file)
        return file.getvalue()

    def _done(self, *place) -> dict:
        return read_checkpoint(self.folder.joinpath(*place) / "checkpoint.pt")["parts"]


def file_name(row: str) -> str:
    """A row's printed name as a folder name that every system accepts."""
    return "".join(c if c.isalnum() or c in "-." else "_" for c in row).strip("_")


def collect(
    out: Path, preset: str, config, seeds: list[int], rows: list[str], device, jobs: int
) -> dict:
    """results.json from the rows on disk: of the seeds asked for, every row that is done in each."""
    seed_folders = [out / f"seed{seed}" for seed in seeds]
    starts = [read_whole(folder / "start.json") for folder in seed_folders]
    found = {
        name: [read_whole(folder / file_name(name) / "row.json") for folder in seed_folders]
        for name in rows
    }
    every = [row for per_seed in found.values() for row in per_seed]
    memory = [
        row["peak_memory_gb"] for row in every if row["peak_memory_gb"]
    ]  # shared pages count in each
    machine = checkup.hardware(device) | {
        "jobs": jobs,
        "peak_memory_gb": round(jobs * ranks.count() * max(memory, default=0), 2),
    }
    if any(on_gpu := [row.get("gpu_peak_gb") or 0 for row in every]):
        machine["gpu_peak_gb_a_row"] = max(on_gpu)
    return {
        "preset": preset,
        "hardware": machine | ({"processes": ranks.count()} if ranks.count() > 1 else {}),
        "versions": checkup.versions(),
        "minutes": None,
        "core_minutes": round(sum(one["minutes"] for one in starts + every), 2),
        "minutes_by_row": {
            name: round(float(np.mean([row["minutes"] for row in per_seed])), 2)
            for name, per_seed in found.items()
        },
        "seeds": seeds,
        "budget": budget(config),
        "counts": starts[0]["counts"],
        "rows": [evaluate.summarise(per_seed) for per_seed in found.values()],
        "controls": [start["controls"] for start in starts],
        "config": named_only(dataclasses.asdict(config)),
    }


def named_only(fields: dict) -> dict:
    """The preset's fields with the reader's own folders cut down to their names."""
    return {key: Path(value).name if key in PATHS else value for key, value in fields.items()}


def budget(config) -> dict:
    """Updates that every row's players get, the same for all, from the same pretrained start."""
    return {
        "A": config.T1 + config.T2,
        "D": config.T1 * config.recognizer_updates,
        "retrained_attacker": config.attack_steps,
        "before_all_rows": {
            "D": config.pretrain_recognizer_steps,
            "A": config.pretrain_detector_steps,
            "other_architecture": config.attack_steps,
        },
    }


def draw(run: SeedRun, out: Path, results: dict, rows: list[str]) -> None:
    """The figures of a finished run, from test pictures of its first seed."""
    faces, per_person = run.data.test_faces, {}
    for index, person in enumerate(run.data.test_faces.identities.tolist()):
        per_person.setdefault(person, []).append(index)
    people = random.Random(0).sample(sorted(per_person), min(8, len(per_person)))
    shown, _, _ = faces.batch(
        torch.tensor([per_person[person][0] for person in people])
    )  # (n, 3, S, S)

    def through(name, pictures):
        with torch.no_grad():
            return run.anonymizer(name)(pictures.to(run.device)).cpu()

    figures.fig3({name: through(name, shown[:4]) for name in rows}, out / "fig3.png")
    figures.fig4(results, out / "fig4.png")
    best = "Ours" if "Ours" in rows else rows[-1]
    figures.fig5(shown, through(best, shown), out / "fig5.png")
    groups = [per_person[person][:6] for person in people if len(per_person[person]) >= 4][:4]
    if groups:
        figures.fig6(
            [through(best, faces.batch(torch.tensor(group))[0]) for group in groups],
            out / "fig6.png",
        )
    figures.training_curves(
        read_log(run.folder / file_name(best) / "log.jsonl"), out / "curves.png"
    )


def main(argv=None) -> int:
    """Run the main job; returns the exit status (0, 2 for a mistake that can be mended, 130 after Ctrl-C)."""
    return in_one_sentence(lambda: run(*parse(argv)))


def run(args, config) -> int:
    """All seeds and rows, then table and figures."""
    began, jobs, device = time.monotonic(), args.jobs, config.device
    gpu = 0.0 if device == "cpu" else gpu_memory("cuda" if device == "auto" else device)
    if device == "auto":
        device = "cuda" if gpu else "cpu"
    if jobs is None:
        training = 0.0 if device == "cpu" else checkup.needs(config, **checkup.ASSUMED)["training"]
        jobs = how_many(device, gpu, training) if ranks.asked() == 1 else 1
    rows = [name for name in ROWS if name in args.rows]  # the paper's order
    if jobs < 1:
        raise ValueError(f"--jobs is {jobs}: it must be at least 1")
    if jobs > 1 and device != "cpu" and torch.cuda.is_initialized():
        raise ValueError(
            f"--jobs is {jobs}: this process has used the GPU already, and its forks cannot then: give --jobs 1"
        )
    if jobs > 1 and ranks.asked() > 1:
        raise ValueError(
            f"--jobs is {jobs}: under torchrun it must be 1, since all processes train one row together"
        )
    if args.check:
        return (
            0
            if not ranks.first()
            else checkup.check(args.preset, config, args.out, rows, args.seed, device, jobs)
        )
    if device.startswith("cuda") and not gpu:
        raise ValueError(f"device is '{device}', but torch sees no GPU here: use --device cpu")
    ranks.join(device, config)
    out, runs = args.out, []
    ranks.first_does(lambda: open_folder(out, args.preset, config))
    for seed in args.seed:
        read = (
            runs[0].data if runs and not config.drawn else None
        )  # folders are the same for each seed
        one = SeedRun(config, out / f"seed{seed}", seed, device, read)
        runs.append(one)
        together(
            {
                "A's start": one.detector,
                "D's start": one.recognizer,
                "other judge": one.other,
                "landmark judge": one.reader,
            },
            jobs,
        )
        together({"controls": lambda one=one: ranks.first_does(one.controls)}, jobs)
        # Ours first: it takes longest, so the others fill the second core meanwhile
        together(
            {name: functools.partial(one.row, name) for name in sorted(rows, key="Ours".__ne__)},
            jobs,
        )
    if not ranks.first():
        return ranks.leave() or 0
    results = collect(out, args.preset, config, args.seed, rows, device, jobs)
    together(
        {"figures": functools.partial(draw, runs[0], out, results, rows)},
        jobs if device == "cpu" else 1,
    )
    results["minutes"] = round(wall_minutes(out, (time.monotonic() - began) / 60), 2)
    table = figures.table1_markdown(results)
    write_whole(out / "table1.md", table)
    if "Ours" in rows:
        write_whole(out / "players.pt", runs[0].players())
    write_whole(out / "results.json", json.dumps(results, indent=1))
    written = [path.name for path in (out / name for name in OUTPUTS) if path.exists()]
    print(f"\n{table}\n{', '.join(written)} are in {out}.")
    return ranks.leave() or 0


def open_folder(out: Path, preset: str, config) -> None:
    """Make the run's folder with its settings, or see that the one there is of the same settings. Raises LoopError."""
    settings = out / "config.json"
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LoopError(f"cannot make {out} ({error.strerror}): choose another --out") from error
    if settings.exists():
        different = presets.differences(config, preset, settings)
        if different:
            raise LoopError(
                f"{out} holds a run with other settings ({'; '.join(different)}): choose another --out"
            )
    else:
        write_whole(settings, presets.as_json(config, preset))


def wall_minutes(out: Path, now: float) -> float:
    """Wall-clock minutes of all calls that worked on this folder and came to their end, this one (`now`) included."""
    path = out / "minutes.json"
    total = now + (read_whole(path)["minutes"] if path.exists() else 0.0)
    write_whole(path, json.dumps({"minutes": total}))
    return total


if __name__ == "__main__":
    sys.exit(main())
