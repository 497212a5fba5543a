"""Repaint the faces in people's own photos, folders and movies.

    python -m ppad.anonymize INPUT [OUTPUT] --method blur
    python -m ppad.anonymize INPUT ... --out FOLDER
    python -m ppad.anonymize INPUT [OUTPUT] --run runs/photo        M of a finished run

INPUT is a picture, an animation, a movie (with ffmpeg on the PATH), or a folder of these; it is
never changed. This module plans and reports the work; `repainter` repaints frames, and `movies`
reads and writes files.
The finder can miss a face, most easily a small, dark or turned one: look at the `--preview` before
you publish.
"""

import argparse
import filecmp
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from ppad import movies
from ppad.ffmpeg import sound_tracks
from ppad.files import check_writable, clock, on_signals, print_progress, write_file
from ppad.optim import check_device
from ppad.repainter import METHODS, Anonymizer, Sheet
from ppad.ssh import SMALLEST_FACE, THRESHOLD, default_finder

WORKERS = 4  # ours: batches searched at once, at most; each holds frames in memory
SECONDS_BETWEEN_LINES = 1.0  # ours: slow enough to read
MAX_LEFT_OUT = 0.1  # ours: share of frames; a variable frame rate alone leaves out fewer

# ---------------------------------------------------------------- files


@dataclass
class Plan:
    """What to do, decided before anything is written."""

    todo: list  # (input, output)
    there_already: list  # existing outputs, as text
    left_out: list  # dicts of an input, the reason, and whether it looks like media

    def leave_out(self, path, reason, media=True):
        self.left_out.append({"input": str(path), "reason": reason, "media": media})


def plan(inputs, output, overwrite=False, others=()):
    """Make the `Plan` for the inputs, files or folders.

    output: a file or folder; None: beside the input, with _anonymized in its name. overwrite:
    whether existing outputs are replaced. others: further paths that will be written.
    Raises ValueError if an input cannot be read, or an output would replace an input, another
    output or, unless `overwrite`, an existing file.
    """
    result = Plan([], [], [])
    pairs = []
    several = len(inputs) > 1
    for source in inputs:
        if os.path.isdir(source):
            pairs += plan_folder(source, output, several, result)
            continue
        kind = movies.kind(source)
        default = source.with_name(f"{source.stem}_anonymized{source.suffix}")
        target = output or movies.written_name(default, kind)
        if several or os.path.isdir(target) or not target.suffix:
            target = target / movies.written_name(Path(source.name), kind)
        pairs.append((source, target))
    if not pairs and not any(entry["media"] for entry in result.left_out):
        raise ValueError(f"{inputs[0]} holds no picture and no movie: check the name")
    refuse_collisions(pairs, others, overwrite)
    single = not several and not os.path.isdir(inputs[0])
    root = output and output.resolve()
    for source, target in pairs:
        if not os.path.lexists(target):
            result.todo.append((source, target))
        elif not single and root in source.resolve().parents:  # the input is in the output folder
            fault = f"{target} is there and may be an original: name another output"
            result.leave_out(source, fault)
        elif overwrite:
            result.todo.append((source, target))
        elif single:
            fix = "name another output, --overwrite it, or give several inputs an --out FOLDER"
            raise ValueError(f"{target} is there already: {fix}")
        elif not target.is_file():
            result.leave_out(source, f"{target} is there and is not a file: rename it")
        elif filecmp.cmp(source, target, shallow=False):
            # An output of ours, repainted with no face found, is identical too.
            fault = f"{target} is a copy of it, or no face was found"
            result.leave_out(source, f"{fault}: delete it to write it again")
        else:
            result.there_already.append(str(target))
    return result


def plan_folder(source, output, several, result):
    """[(input, output)] of a folder and its subfolders, except for the output folder.

    Files that are left out are added to the `Plan` result.
    """
    folder = Path(os.path.abspath(source))
    root = output or folder.with_name(f"{folder.name}_anonymized")
    output = root / folder.name if output and several else root
    for place in (root, output):
        if os.path.exists(place) and (not place.is_dir() or place.samefile(source)):
            raise ValueError(f"{place} is the input or a file: name another folder for the output")
    pairs = []
    errors = []
    for folder, folders, names in os.walk(source, onerror=errors.append):
        for path in [Path(folder, name) for name in sorted(folders)]:
            if path.is_symlink():
                result.leave_out(path, "is a linked folder: give it as a separate input")
            if os.path.realpath(path) in map(os.path.realpath, (root, output)):
                folders.remove(path.name)
        folders.sort()
        for path in [Path(folder, name) for name in sorted(names) if not name.startswith("._")]:
            try:
                kind = movies.kind(path)
            except ValueError as error:
                result.leave_out(path, str(error), movies.may_be_media(path))
            else:
                pairs.append((path, output / movies.written_name(path.relative_to(source), kind)))
    for error in errors:
        result.leave_out(error.filename, f"cannot be read ({error.strerror})")
    return pairs


def refuse_collisions(pairs, others, overwrite):
    """Raise ValueError if a path would be written twice, or is an input."""

    def file_id(path):  # equal for two names of one file
        status = os.stat(path)
        return status.st_dev, status.st_ino

    inputs = {file_id(source) for source, _ in pairs}
    users = {}  # path that will be written -> what it is for
    written = [(str(source), target) for source, target in pairs]
    written += [("the report or preview", path) for path in others]
    for user, path in written:
        if os.path.exists(path) and file_id(path) in inputs:
            raise ValueError(f"{path} is an input, which is never overwritten: name another output")
        place = os.path.realpath(path)
        if place in users:
            fault = f"{path} would be written twice, for {users[place]} and {user}"
            raise ValueError(f"{fault}: rename one, or choose another output")
        users[place] = user
    for path in others:
        if os.path.exists(path) and not (overwrite and os.path.isfile(path)):
            raise ValueError(f"{path} is there already: choose another name, or --overwrite a file")


def anonymize_file(
    anonymizer, source, target, show=None, progress=None, sound="keep", quality=movies.QUALITY
):
    """Read `source`, repaint it, write `target`, which appears only when complete.

    show(frame, faces) is called with every finished frame and `Anonymizer.shown`, progress(done,
    total or None) after each. sound: "drop" leaves out a movie's sound. quality: 1 to 100.
    Returns a summary, a dict. Raises ValueError, WriteError.
    """
    began = time.monotonic()
    existed = os.path.lexists(target)
    unreadable = []
    left_out = []
    lost = []

    def check_target():
        if os.path.lexists(target) and not existed:
            fault = f"{target} was written by something else in the meantime"
            raise ValueError(f"{fault}: name another output, or replace it with --overwrite")

    def repainted(frames, rate, total):
        for number, frame in enumerate(anonymizer.frames(frames, rate), 1):
            if show:
                show(frame, anonymizer.shown)
            if progress:
                progress(number, total)
            yield frame
        check_target()  # after the last frame: the file appears next

    kind = movies.kind(source)
    threads = torch.get_num_threads()
    if kind != "picture":
        # The finder's small networks hardly gain from a second core; a second frame does.
        torch.set_num_threads(max(1, threads // anonymizer.workers))
    try:
        if kind == "picture":
            if pages := movies.pages_left_out(source):
                left_out.append(pages)
            frame = anonymizer.picture(movies.read_picture(source))
            check_target()
            movies.save_picture(target, frame, quality)
            if show:
                show(frame, anonymizer.shown)
        elif kind == "animation":
            frames, times, loop = movies.read_animation(source)
            painted = repainted(frames, None, len(times))
            movies.save_animation(target, painted, times, loop, quality)
        else:
            movie = movies.probe(source)
            stop = anonymizer.on_error == "stop"
            frames = movies.read_movie(source, movie, unreadable, stop, lost)
            tracks = []
            if sound == "keep":
                tracks, left_out = sound_tracks(source)
            if movie.streams > 1:
                left_out.append(f"all but the first of {movie.streams} video streams")
            painted = repainted(frames, movie.rate, movie.count)
            movies.save_movie(target, painted, movie, source, tracks, quality)
    finally:
        torch.set_num_threads(threads)
    summary = dict(anonymizer.summary)
    summary["frames_covered_whole"] += len(unreadable)
    if len(lost) > MAX_LEFT_OUT * summary["frames"]:
        left_out.append(f"{len(lost)} frames, too close to others in time")
    return {
        "input": str(source),
        "output": str(target),
        "kind": kind,
        **summary,
        "frames_unreadable": len(unreadable),
        "frames_left_out": len(lost),
        "left_out": left_out,
        "seconds": round(time.monotonic() - began, 2),
    }


# ---------------------------------------------------------------- the command


def parse(argv=None):
    """The command line as a namespace. Exits with status 2 on an unknown flag or value."""
    parser = argparse.ArgumentParser(
        prog="python -m ppad.anonymize",
        description="Repaint the faces in pictures, folders and movies.",
    )
    add = parser.add_argument
    add("inputs", type=given_path, nargs="+", metavar="INPUT [OUTPUT]", help="file or folder")
    add("--out", type=given_path, metavar="FOLDER", help="output folder; needed for several inputs")
    methods = ["ours", *METHODS]
    add("--method", choices=methods, help="default: mask, or ours where --run is given")
    add("--run", type=given_path, help="use M of this finished run of ppad.reproduce")
    add("--report", type=given_path, help="write a summary as .json")
    add(
        "--preview",
        type=given_path,
        help="write finished frames and faces as .png, to spot missed faces",
    )
    failed = "when a frame fails: stop (default), or cover it in black"
    add("--on_error", choices=["stop", "cover"], default="stop", help=failed)
    add("--overwrite", action="store_true", help="replace outputs; never the input")
    finds_more = "default %(default)g; lower finds more"
    add("--min_face", type=float, default=SMALLEST_FACE, help=f"px, {finds_more}, more slowly")
    add("--threshold", type=float, default=THRESHOLD, help=f"score, {finds_more}, also false faces")
    pictures = "of JPEG, WebP, AVIF and movies, default %(default)s"
    add("--quality", type=int, default=movies.QUALITY, metavar="1-100", help=pictures)
    sound = "of a movie; default: keep, though voices identify people"
    add("--sound", choices=["keep", "drop"], default="keep", help=sound)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    add("--device", default=device, help="cpu, cuda or mps; here %(default)s")
    args = parser.parse_args(argv)
    args.method = args.method or ("ours" if args.run else "mask")
    args.output = args.out
    if args.out is None and len(args.inputs) > 2:
        parser.error("several inputs need --out FOLDER")
    if args.out is None and len(args.inputs) == 2:
        args.output = args.inputs.pop()
    if not 1 <= args.quality <= 100:
        parser.error(f"--quality is {args.quality}: give 1 to 100")
    return args


def given_path(text):
    """A path argument, which may not be empty: Path("") is the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("is empty: give a name")
    return Path(text)


def run(args):
    """Process all files, then write report and preview.

    Returns the exit status: 2 if a file failed, 1 if something that may be media was left out.
    Raises ValueError or LoopError if it cannot start, WriteError if it cannot write.
    """
    to_do = check(args)
    anonymizer = make_anonymizer(args)
    single = len(args.inputs) == 1 and not args.inputs[0].is_dir()
    sheet = Sheet()
    done = []
    failed = []
    for i, (source, target) in enumerate(to_do.todo, 1):
        progress = Progress(source.name if single else f"{i}/{len(to_do.todo)} {source.name}")
        sheet.file = i
        try:
            summary = anonymize_file(
                anonymizer, source, target, sheet.show, progress, args.sound, args.quality
            )
        except Exception as error:  # damaged files raise many types; go on with the next
            reason = str(error) or "not enough memory: end other programs"
            if str(source) not in reason:
                reason = f"{source}: {reason}"
            failed.append({"input": str(source), "reason": reason})
            print(f"not done: {reason}", file=sys.stderr)
        else:
            done.append(summary)
            print(sentence(summary))
    for entry in to_do.left_out:
        print(f"left out: {entry['input']}: {entry['reason']}", file=sys.stderr)
    there_already = to_do.there_already
    if not single:
        print(
            f"{len(done)} done, {len(there_already)} there already, {len(failed)} not done, "
            f"{len(to_do.left_out)} left out as neither picture nor movie or not readable"
        )
    if there_already:
        note = "what was there already was made earlier, perhaps with other settings"
        print(f"{note}: --overwrite replaces it")
    if args.report:
        report = {
            "method": args.method,
            "run": args.run and str(args.run),
            "files": done,
            "not_done": failed,
            "there_already": len(there_already),
            "made_earlier": there_already,
            "left_out": to_do.left_out,
        }
        write_file(args.report, json.dumps(report, indent=1))
    if args.preview and done:
        sheet.save(args.preview)
    elif args.preview:
        print(f"{args.preview} was not written: no file was repainted", file=sys.stderr)
    if failed:
        return 2
    return int(any(e["media"] for e in to_do.left_out) or any(s["left_out"] for s in done))


def check(args):
    """Return the `Plan`. Raises ValueError if the arguments cannot work."""
    others = []
    for path, suffix in ((args.report, ".json"), (args.preview, ".png")):
        if path:
            others.append(path)
            if path.suffix.lower() != suffix:
                raise ValueError(f"{path}: give a name that ends in {suffix}")
    to_do = plan(args.inputs, args.output, args.overwrite, others)
    if args.run and args.method != "ours":
        raise ValueError(f"--run does not fit --method {args.method}: leave one of the two out")
    check_device(args.device)
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device is '{args.device}', but torch sees no GPU here: use --device cpu")
    for path in others:
        check_writable(path.parent)
    return to_do


class Progress:
    """Prints frames done, frames a second and the time left to stderr."""

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


def make_anonymizer(args):
    """The Anonymizer that the command line asks for. ValueError, LoopError if M is missing."""
    settings = {
        "finder": default_finder(args.min_face, args.device, args.threshold),
        "on_error": args.on_error,
        "device": args.device,
        "workers": min(WORKERS, torch.get_num_threads()) if args.device == "cpu" else 1,
    }
    if args.method == "ours":
        return Anonymizer.from_run(args.run, **settings)
    return Anonymizer.from_method(args.method, **settings)


def sentence(file):
    """One line for the user about a finished file."""

    def counted(number, noun):
        return f"{number} {noun}{'s' * (number != 1)}"

    frames = file["frames"]
    text = f"{file['output']}: {counted(file['faces'], 'face')}"
    if file["kind"] != "picture":
        text += f" in {frames} frames, {counted(file['tracks'], 'track')}"
        text += f", longest gap {file['longest_gap']} (filled)"
        text += f", {frames / max(file['seconds'], 0.01):.1f} frames a second"
    if file["frames_covered_whole"]:
        text += f"; {file['frames_covered_whole']} covered whole"
    if file["frames_unreadable"]:
        text += f" ({file['frames_unreadable']} cannot be decoded)"
    if file["frames_left_out"]:
        text += f"; {file['frames_left_out']} left out, too close to another in time"
    for what in file["left_out"]:
        text += f"; left out: {what}"
    if without := file["frames_without_face"]:
        text += f"; {without} of {frames} without any face: check whether one was missed"
    return text


def stop(signum, frame):
    """Exit through an exception on a signal, so that no unfinished file is left."""
    sys.exit(128 + signum)


def main(argv=None):
    """The command; returns the exit status.

    0: all done; 1: something that may be media was left out; 2: an error to fix; 130: Ctrl-C.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # names that the terminal cannot show
    try:
        with on_signals(stop):
            return run(parse(argv))
    except (ValueError, OSError, RuntimeError) as error:  # LoopError is a RuntimeError
        if isinstance(error, OSError) and error.filename:
            error = movies.unreadable(error.filename, error)
        print(f"ppad.anonymize: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nppad.anonymize: stopped; the unfinished file was not written", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
