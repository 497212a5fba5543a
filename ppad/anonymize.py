"""Faces repainted in people's own photos, folders and movies.

    python -m ppad.anonymize INPUT [OUTPUT] --method blur
    python -m ppad.anonymize INPUT [OUTPUT] --run runs/photo        M of a finished run (method "ours")

INPUT is a picture, an animated GIF, WebP or PNG, a movie (with ffmpeg on the PATH), or a folder of these. What a person
who has to trust the result needs is in the rooms below, and this one only parses, calls and reports:

    steady        faces are followed from frame to frame, gaps filled, boxes smoothed (`tracks`)
    fails closed  what cannot be read or searched stops the run, or is covered whole if asked (`repainter`)
    leaks nothing files are written anew, without metadata; the input is never touched (`movies`)

From Python: `Anonymizer.from_run(...)`, `.picture(...)`, `.frames(...)`, see `repainter`.
A finder can miss a face, most easily a small, dark or turned one: look at the `--preview` before you publish.
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
from ppad.loop import clock, write_whole
from ppad.repainter import METHODS, SMALLEST_FACE, Anonymizer, default_finder

SECONDS_BETWEEN_LINES = 1.0  # ours: progress a person can follow
WORKERS = 4  # ours: most batches searched at once, as each holds frames in memory
SHEET_COLUMNS, SHEET_ROWS, SHEET_WIDTH = 4, 6, 240  # ours: the preview, px a picture


# ---------------------------------------------------------------- files


def plan(source, output, overwrite=False):
    """What is to be made of what: ([(input file, output file)], number of files left out as neither picture nor movie,
    number left out as there already). Nothing is written. ValueError when input or output will not do."""
    source = Path(source)
    if source.is_dir():
        output = Path(output) if output else source.with_name(f"{source.resolve().name}_anonymized")
        if output.exists() and (not output.is_dir() or output.samefile(source)):
            raise ValueError(f"{output} is the input or a file: name another folder for the output")
        files = [
            Path(folder, name)
            for folder, _, names in os.walk(source)
            for name in sorted(names)
            if output.resolve() not in (Path(folder).resolve(), *Path(folder).resolve().parents)
        ]
        known = [
            path
            for path in sorted(files)
            if path.suffix.lower() in (*movies.FORMATS, *movies.READ_MOVIES)
        ]
        pairs = [(path, output / with_suffix(path.relative_to(source))) for path in known]
        todo = [(path, target) for path, target in pairs if overwrite or not target.exists()]
        if not pairs:
            raise ValueError(f"{source} holds no picture and no movie: check the name")
        return todo, len(files) - len(known), len(pairs) - len(todo)
    movies.kind(source)  # the sentence for a file that cannot be read comes first
    target = (
        Path(output)
        if output
        else with_suffix(source.with_name(f"{source.stem}_anonymized{source.suffix}"))
    )
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


def with_suffix(path):
    """The name under which a file is written: the same, with .mp4 added to a kind of movie that is only read."""
    return (
        path
        if path.suffix.lower() in (*movies.FORMATS, *movies.MOVIES)
        else path.with_name(f"{path.name}.mp4")
    )


def anonymize_file(
    anonymizer, source, target, show=lambda frame: None, progress=lambda done, total: None
):
    """Read `source`, repaint it, write `target`, which appears only when complete. Returns the summary, a dict.

    show(frame) is given every finished frame; progress(done, total or None) is called after each.
    """
    began, damaged, kind = time.monotonic(), [], movies.kind(source)
    threads = torch.get_num_threads()

    def through(frames, total, rate=None):
        for number, frame in enumerate(anonymizer.frames(frames, rate), 1):
            show(frame)
            progress(number, total)
            yield frame

    if kind == "picture":
        frame = anonymizer.picture(movies.read_picture(source))
        movies.save_picture(target, frame)
        show(frame)
    else:
        # Networks as small as the finder's hardly gain from a second core; a second frame beside the first does.
        torch.set_num_threads(max(1, threads // anonymizer.workers))
        try:
            if kind == "animation":
                frames, times, loop = movies.read_animation(source)
                movies.save_animation(target, through(frames, len(times)), times, loop)
            else:
                movie = movies.probe(source)
                frames = movies.read_movie(
                    source, movie, damaged if anonymizer.on_error == "cover" else None
                )
                with movies.movie_writer(target, movie, source) as write:
                    for frame in through(frames, movie.count, movie.rate):
                        write(frame)
        finally:
            torch.set_num_threads(threads)
    summary = dict(anonymizer.summary)
    summary["frames_covered_whole"] += len(damaged)
    return {
        "input": str(source),
        "output": str(target),
        "kind": kind,
        **summary,
        "seconds": round(time.monotonic() - began, 2),
    }


class Sheet:
    """Some finished frames, evenly taken, on one sheet: never the originals, which a preview would leak."""

    def __init__(self):
        self.kept, self.seen, self.every = [], 0, 1

    def show(self, frame):
        if self.seen % self.every == 0:
            picture = Image.fromarray(frame)
            picture.thumbnail((SHEET_WIDTH, SHEET_WIDTH))
            self.kept.append(picture)
            if len(self.kept) > SHEET_COLUMNS * SHEET_ROWS:
                self.kept, self.every = self.kept[::2], 2 * self.every
        self.seen += 1

    def save(self, path):
        rows = -(-len(self.kept) // SHEET_COLUMNS)
        height = max(picture.height for picture in self.kept)
        sheet = Image.new(
            "RGB", (min(len(self.kept), SHEET_COLUMNS) * SHEET_WIDTH, rows * height), "white"
        )
        for i, picture in enumerate(self.kept):
            sheet.paste(picture, (i % SHEET_COLUMNS * SHEET_WIDTH, i // SHEET_COLUMNS * height))
        movies.save_picture(path, np.array(sheet))


class Progress:
    """One line on stderr: rewritten on a terminal, a line now and then elsewhere."""

    def __init__(self, title):
        self.title, self.began, self.told = title, time.monotonic(), time.monotonic()

    def __call__(self, done, total):
        now = time.monotonic()
        if now - self.told > SECONDS_BETWEEN_LINES:
            self.told = now
            rate = done / (now - self.began)
            left = f"/{total}, {clock(max(0, total - done) / rate)} left" if total else ""
            start, end = ("\r\033[K", "") if sys.stderr.isatty() else ("", "\n")
            print(
                f"{start}{self.title}: frame {done}{left}, {rate:.1f} a second",
                end=end,
                file=sys.stderr,
                flush=True,
            )


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
        help="folder of a finished run of ppad.reproduce, for its M; default: the M that comes with the package",
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
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args(argv)


def run(args):
    """All files, then report and preview. Returns the exit status: 2 when a file of a folder could not be done."""
    for flag, path, suffix in (
        ("--report", args.report, ".json"),
        ("--preview", args.preview, ".png"),
    ):
        if path and path.suffix.lower() != suffix:
            raise ValueError(f"{flag} is {path}: give a name that ends in {suffix}")
    todo, left_out, there = plan(args.input, args.output, args.overwrite)
    for path in filter(None, (args.report, args.preview)):
        if path.exists() and any(path.samefile(source) for source, _ in todo):
            raise ValueError(f"{path} is an input: choose another name")
    if args.run and args.method != "ours":
        raise ValueError(
            f"--run names the M of --method ours, but --method is {args.method}: leave one of the two out"
        )
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device is '{args.device}', but torch sees no GPU here: use --device cpu")
    settings = {
        "finder": default_finder(args.min_face, args.device),
        "on_error": args.on_error,
        "device": args.device,
        "workers": min(WORKERS, torch.get_num_threads()) if args.device == "cpu" else 1,
    }
    anonymizer = (
        Anonymizer.from_run(args.run, **settings)
        if args.method == "ours"
        else Anonymizer.from_method(args.method, **settings)
    )
    sheet, done, failed = Sheet(), [], []
    for i, (source, target) in enumerate(todo, 1):
        try:
            name = source.name if len(todo) == 1 else f"{i}/{len(todo)} {source.name}"
            done.append(anonymize_file(anonymizer, source, target, sheet.show, Progress(name)))
            print(sentence(done[-1]))
        except (ValueError, OSError) as error:
            if not args.input.is_dir():
                raise
            failed.append({"input": str(source), "reason": str(error)})
            print(f"not done: {error}", file=sys.stderr)
    if args.input.is_dir():
        print(
            f"{len(done)} done, {there} there already, {len(failed)} not done, {left_out} left out as neither picture "
            "nor movie"
        )
    if args.preview and sheet.kept:
        sheet.save(args.preview)
    if args.report:
        write_whole(
            args.report,
            json.dumps(
                {
                    "method": args.method,
                    "run": args.run and str(args.run),
                    "files": done,
                    "not_done": failed,
                    "there_already": there,
                    "left_out": left_out,
                },
                indent=1,
            ),
        )
    return 2 if failed else 0


def sentence(one):
    """What a person wants to know of one finished file."""
    text = f"{one['output']}: {one['faces']} face{'s' * (one['faces'] != 1)}"
    if one["kind"] != "picture":
        text += (
            f" in {one['frames']} frames, {one['tracks']} track{'s' * (one['tracks'] != 1)}, longest gap {one['longest_gap']} "
            f"(filled), {one['frames'] / max(one['seconds'], 0.01):.1f} frames a second"
        )
    if one["frames_covered_whole"]:
        text += f"; {one['frames_covered_whole']} covered whole"
    if one["frames_without_face"]:
        text += f"; {one['frames_without_face']} of {one['frames']} without any face: look whether one was missed"
    return text


def main(argv=None):
    """The command; returns the exit status (0, 2 for what can be mended, 130 after Ctrl-C)."""
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
