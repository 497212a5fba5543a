"""Repaint the faces in people's own photos, folders and movies.

    python -m ppad.anonymize INPUT [OUTPUT] --method blur
    python -m ppad.anonymize INPUT [OUTPUT] --run runs/photo        M of a finished run

INPUT is a picture, an animated GIF, WebP or PNG, a movie (with ffmpeg on the PATH), or a folder of
these. This file parses, calls and reports; the work is done elsewhere:

    tracks     faces are followed from frame to frame, gaps filled, boxes smoothed
    repainter  what cannot be searched stops the run, or is blackened if asked
    movies     files are written anew, without metadata; the input is never changed

From Python: `Anonymizer.from_run(...)`, `.picture(...)`, `.frames(...)`, see `repainter`.
A finder can miss a face, most easily a small, dark or turned one: look at the `--preview` before
you publish.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ppad import movies
from ppad.files import clock, print_progress, write_file
from ppad.repainter import METHODS, SMALLEST_FACE, Anonymizer, default_finder

SECONDS_BETWEEN_LINES = 1.0  # ours: progress a person can follow
WORKERS = 4  # ours: most batches searched at once, as each holds frames in memory
# Ours: the preview's pictures, and px of each.
SHEET_COLUMNS = 4
SHEET_ROWS = 6
SHEET_WIDTH = 240


# ---------------------------------------------------------------- files


def plan(source, output, overwrite=False):
    """What is to be read and what written. Nothing is written yet.

    Returns [(input file, output file)], the number of files left out as neither picture nor movie,
    and the number left out since their output exists. Raises ValueError for an input or output that
    cannot be used.
    """
    source = Path(source)
    if source.is_dir():
        return plan_folder(source, output, overwrite)
    movies.kind(source)  # the sentence for a file that cannot be read comes first
    default = source.with_name(f"{source.stem}_anonymized{source.suffix}")
    target = Path(output) if output else with_suffix(default)
    if target.is_dir():
        target = target / with_suffix(Path(source.name))
    if target.exists() and target.samefile(source):
        raise ValueError(
            f"{target} is the input itself, which is never overwritten: name another output"
        )
    if target.exists() and not overwrite:
        raise ValueError(
            f"{target} is there already: name another output, or replace it by --overwrite"
        )
    return [(source, target)], 0, 0


def plan_folder(source, output, overwrite):
    """`plan` of a folder, with all its sub-folders but the output."""
    output = Path(output) if output else source.with_name(f"{source.resolve().name}_anonymized")
    if output.exists() and (not output.is_dir() or output.samefile(source)):
        raise ValueError(f"{output} is the input or a file: name another folder for the output")
    files = []
    for folder, _, names in os.walk(source):
        here = Path(folder).resolve()
        if output.resolve() not in (here, *here.parents):
            files += [Path(folder, name) for name in names]
    readable = (*movies.FORMATS, *movies.READ_MOVIES)
    known = [path for path in sorted(files) if path.suffix.lower() in readable]
    if not known:
        raise ValueError(f"{source} holds no picture and no movie: check the name")
    pairs = [(path, output / with_suffix(path.relative_to(source))) for path in known]
    todo = [(path, target) for path, target in pairs if overwrite or not target.exists()]
    return todo, len(files) - len(known), len(pairs) - len(todo)


def with_suffix(path):
    """The output's name: the same, with .mp4 added to a kind of movie that is not written."""
    if path.suffix.lower() in (*movies.FORMATS, *movies.MOVIES):
        return path
    return path.with_name(f"{path.name}.mp4")


def anonymize_file(anonymizer, source, target, show=None, progress=None, sound="keep"):
    """Read `source`, repaint it, write `target`, which appears only when complete.

    show(frame) is given every finished frame; progress(done, total or None) is called after each;
    sound: "drop" leaves a movie's sound out.
    Returns a summary, a dict. Raises ValueError, WriteError.
    """
    began = time.monotonic()
    unreadable = []
    left_out = []
    kind = movies.kind(source)
    threads = torch.get_num_threads()
    if kind != "picture":
        # Networks as small as the finder's hardly gain from a second core; another frame does.
        torch.set_num_threads(max(1, threads // anonymizer.workers))
    try:
        if kind == "picture":
            frame = anonymizer.picture(movies.read_picture(source))
            movies.save_picture(target, frame)
            if show:
                show(frame)
        elif kind == "animation":
            frames, times, loop = movies.read_animation(source)
            repainted = reported(anonymizer.frames(frames), len(times), show, progress)
            movies.save_animation(target, repainted, times, loop)
        else:
            movie = movies.probe(source)
            stop = anonymizer.on_error == "stop"
            frames = movies.read_movie(source, movie, unreadable, stop)
            frames = anonymizer.frames(frames, movie.rate)
            tracks = []
            if sound == "keep":
                tracks, left_out = movies.sound_tracks(source)
            with movies.movie_writer(target, movie, source, tracks) as write:
                for frame in reported(frames, movie.count, show, progress):
                    write(frame)
    finally:
        torch.set_num_threads(threads)
    summary = dict(anonymizer.summary)
    summary["frames_covered_whole"] += len(unreadable)
    return {
        "input": str(source),
        "output": str(target),
        "kind": kind,
        **summary,
        "frames_unreadable": len(unreadable),
        "left_out": left_out,
        "seconds": round(time.monotonic() - began, 2),
    }


def reported(frames, total, show, progress):
    """The frames, each passed to `show` and counted by `progress` before it is given back."""
    for number, frame in enumerate(frames, 1):
        if show:
            show(frame)
        if progress:
            progress(number, total)
        yield frame


class Sheet:
    """Some finished frames, evenly taken, on one sheet; an original would leak what it shows."""

    def __init__(self):
        self.kept = []
        self.seen = 0
        self.every = 1

    def show(self, frame):
        """Take in a frame (H, W, 3) uint8."""
        if self.seen % self.every == 0:
            picture = Image.fromarray(frame)
            picture.thumbnail((SHEET_WIDTH, SHEET_WIDTH))
            self.kept.append(picture)
            if len(self.kept) > SHEET_COLUMNS * SHEET_ROWS:
                self.kept = self.kept[::2]
                self.every *= 2
        self.seen += 1

    def save(self, path):
        """Write the sheet as a picture."""
        rows = -(-len(self.kept) // SHEET_COLUMNS)
        width = min(len(self.kept), SHEET_COLUMNS) * SHEET_WIDTH
        height = max(picture.height for picture in self.kept)
        sheet = Image.new("RGB", (width, rows * height), "white")
        for i, picture in enumerate(self.kept):
            sheet.paste(picture, (i % SHEET_COLUMNS * SHEET_WIDTH, i // SHEET_COLUMNS * height))
        movies.save_picture(path, np.array(sheet))


class Progress:
    """Frames done, frames a second and the time left, on stderr."""

    def __init__(self, title):
        self.title = title
        self.began = time.monotonic()
        self.last_print = self.began

    def __call__(self, done, total):
        now = time.monotonic()
        if now - self.last_print > SECONDS_BETWEEN_LINES:
            self.last_print = now
            rate = done / (now - self.began)
            left = f"/{total}, {clock(max(0, total - done) / rate)} left" if total else ""
            print_progress(f"{self.title}: frame {done}{left}, {rate:.1f} a second")


# ---------------------------------------------------------------- the command


def parse(argv=None):
    """The command line as a namespace. Exits with status 2 on a flag or value it does not know."""
    parser = argparse.ArgumentParser(
        prog="python -m ppad.anonymize",
        description="Repaint the faces in pictures, folders and movies.",
    )
    parser.add_argument("input", type=Path)
    parser.add_argument(
        "output", type=Path, nargs="?", help="default: the input's name with _anonymized"
    )
    parser.add_argument(
        "--method", choices=["ours", *METHODS], default="ours", help="default: ours"
    )
    parser.add_argument(
        "--run",
        type=Path,
        help="folder of a finished run of ppad.reproduce, for its M; default: the package's M",
    )
    parser.add_argument("--report", type=Path, help="write what was done as .json")
    parser.add_argument(
        "--preview",
        type=Path,
        help="write a sheet of finished frames as .png: look whether a face was missed",
    )
    parser.add_argument(
        "--on_error",
        choices=["stop", "cover"],
        default="stop",
        help="a frame that cannot be read or searched",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace outputs that are there already; never the input",
    )
    parser.add_argument(
        "--min_face",
        type=float,
        default=SMALLEST_FACE,
        help=f"px, default {SMALLEST_FACE:g}: smaller finds more, slower",
    )
    parser.add_argument(
        "--sound",
        choices=["keep", "drop"],
        default="keep",
        help="of a movie; default: keep, though voices identify people",
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args(argv)


def run(args):
    """All files, then report and preview.

    Returns the exit status, 2 when a file of a folder could not be done. Raises ValueError,
    WriteError.
    """
    todo, left_out, there_already = check(args)
    anonymizer = make_anonymizer(args)
    sheet = Sheet()
    done = []
    failed = []
    for i, (source, target) in enumerate(todo, 1):
        try:
            name = source.name if len(todo) == 1 else f"{i}/{len(todo)} {source.name}"
            progress = Progress(name)
            done.append(
                anonymize_file(anonymizer, source, target, sheet.show, progress, args.sound)
            )
            print(sentence(done[-1]))
        except (ValueError, OSError) as error:
            if not args.input.is_dir():
                raise
            failed.append({"input": str(source), "reason": str(error)})
            print(f"not done: {error}", file=sys.stderr)
    if args.input.is_dir():
        print(
            f"{len(done)} done, {there_already} there already, {len(failed)} not done, "
            f"{left_out} left out as neither picture nor movie"
        )
    if args.preview and sheet.kept:
        sheet.save(args.preview)
    if args.report:
        report = {
            "method": args.method,
            "run": args.run and str(args.run),
            "files": done,
            "not_done": failed,
            "there_already": there_already,
            "left_out": left_out,
        }
        write_file(args.report, json.dumps(report, indent=1))
    return 2 if failed else 0


def check(args):
    """Refuse (ValueError) what cannot work before anything is written; returns the `plan`."""
    for flag, path, suffix in (
        ("--report", args.report, ".json"),
        ("--preview", args.preview, ".png"),
    ):
        if path and path.suffix.lower() != suffix:
            raise ValueError(f"{flag} is {path}: give a name that ends in {suffix}")
    todo, left_out, there_already = plan(args.input, args.output, args.overwrite)
    for path in filter(None, (args.report, args.preview)):
        if path.exists() and any(path.samefile(source) for source, _ in todo):
            raise ValueError(f"{path} is an input: choose another name")
    if args.run and args.method != "ours":
        raise ValueError(
            f"--run names the M of --method ours, but --method is {args.method}: "
            "leave one of the two out"
        )
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device is '{args.device}', but torch sees no GPU here: use --device cpu")
    return todo, left_out, there_already


def make_anonymizer(args):
    """The Anonymizer that the command line asks for. ValueError, LoopError where M is missing."""
    settings = {
        "finder": default_finder(args.min_face, args.device),
        "on_error": args.on_error,
        "device": args.device,
        "workers": min(WORKERS, torch.get_num_threads()) if args.device == "cpu" else 1,
    }
    if args.method == "ours":
        return Anonymizer.from_run(args.run, **settings)
    return Anonymizer.from_method(args.method, **settings)


def sentence(one):
    """What a person wants to know of one finished file."""
    faces = one["faces"]
    frames = one["frames"]
    text = f"{one['output']}: {faces} face{'s' * (faces != 1)}"
    if one["kind"] != "picture":
        tracks = one["tracks"]
        speed = frames / max(one["seconds"], 0.01)
        text += (
            f" in {frames} frames, {tracks} track{'s' * (tracks != 1)}, "
            f"longest gap {one['longest_gap']} (filled), {speed:.1f} frames a second"
        )
    if one["frames_covered_whole"]:
        text += f"; {one['frames_covered_whole']} covered whole"
    if one["frames_unreadable"]:
        text += f" ({one['frames_unreadable']} cannot be decoded)"
    for what in one["left_out"]:
        text += f"; left out: {what}"
    without = one["frames_without_face"]
    if without:
        text += f"; {without} of {frames} without any face: look whether one was missed"
    return text


def main(argv=None):
    """The command; returns the exit status (0, 2 for what a user can fix, 130 after Ctrl-C)."""
    try:
        return run(parse(argv))
    except (ValueError, OSError, RuntimeError, MemoryError) as error:  # LoopError is a RuntimeError
        print(f"ppad.anonymize: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nppad.anonymize: stopped; the file under way was not written", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
