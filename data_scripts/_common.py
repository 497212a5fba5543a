"""What the prepare_* scripts share: one prepared format, written so that any stop is harmless.

A script names its items one after another: where the picture goes in OUT, how its bytes are had, and what is known
about it. `gather` decodes each (a broken one is named and left out), finds the faces, writes the picture, then adds a
line to a journal in OUT. A picture in the journal is never done again, so the same command goes on after any stop; the
tables are made of the journals at the end, written beside their name first and then renamed:

    faces      OUT/train|test/PERSON/PICTURE, landmarks.csv           (read by `ppad.datasets.read_faces`)
    actions    OUT/.../PICTURE, annotations.csv, faces.csv            (read by `ppad.datasets.read_actions`)

Pictures are copied as they are, so nothing is lost to a second compression. Nothing outside OUT is written.
"""

import argparse
import contextlib
import csv
import errno
import io
import itertools
import json
import os
import sys
import tarfile
import textwrap
import time
import warnings
import zipfile
import zlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from PIL import Image, UnidentifiedImageError

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # `python data_scripts/x.py` leaves the project out

from _faces import main_face
from _untrusted import BadItem, UserError

from ppad.face_finder import RULES
from ppad.readers import BOX_COLUMNS, FORMATS, POINT_COLUMNS, SUFFIXES, DataError, cores

MOST_PIXELS = (
    50_000_000  # ours: of one picture, fifty times 1280 x 720; a small file can claim any number
)
AT_ONCE = 16  # ours: pictures that the face finder gets together
NAMED = 20  # ours: so many left-out pictures are named on the screen; left_out_*.txt names all


warnings.simplefilter(
    "ignore", Image.DecompressionBombWarning
)  # `decode` refuses such pictures itself, and names them


# ---------------------------------------------------------------- command line


def arguments(doc, actions=False):
    """The parser that the scripts share: SOURCE OUT, a table instead of the face finder, and a device."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("source", type=Path, metavar="SOURCE")
    parser.add_argument(
        "out", type=Path, metavar="OUT", help="the prepared folder; nothing is written elsewhere"
    )
    columns = (
        "file, x_min, y_min, x_max, y_max"
        if actions
        else "file and the ten landmark columns, with or without a face box"
    )
    parser.add_argument(
        "--landmarks",
        type=Path,
        metavar="TABLE",
        help=f"take faces from this table ({columns}; see the README) instead of finding them",
    )
    if actions:
        parser.add_argument(
            "--rule",
            choices=RULES,
            default="mtcnn",
            help="how faces are found (see ppad/face_finder.py)",
        )
    parser.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="where faces are found",
    )
    return parser


def run(main, argv=None):
    """Call main(argv); what the user can mend ends in one sentence and status 2, Ctrl-C in status 130."""
    try:
        main(argv)
    except (UserError, DataError, OSError) as problem:
        print(f"{problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def check_places(source, out):
    """UserError unless OUT can be written without touching SOURCE."""
    source, out = source.resolve(), out.resolve()
    if not source.exists():
        raise UserError(f"{source}: there is no such file or folder; check SOURCE")
    if source.is_relative_to(out) or out.is_relative_to(source):
        raise UserError(
            f"OUT {out} and SOURCE {source} lie in one another; give a folder of its own as OUT"
        )
    if out.exists() and not out.is_dir():
        raise UserError(f"OUT {out} is a file; give a folder")


# ---------------------------------------------------------------- writing


@contextlib.contextmanager
def writing(path):
    """What goes wrong inside, as when the disk is full, is a UserError that names `path`."""
    try:
        yield
    except OSError as problem:
        mend = (
            "free some disk space"
            if problem.errno in (errno.ENOSPC, errno.EDQUOT)
            else "see that it can be written"
        )
        raise UserError(
            f"cannot write {path} ({problem.strerror}): {mend} and run the same command again"
        ) from problem


def write_file(path, content):
    """Bytes or text under `path`, whole or not at all."""
    part = path.with_name(path.name + ".part")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
            os.replace(part, path)
    finally:  # after an error or Ctrl-C too; once renamed it is not there
        with contextlib.suppress(OSError):
            part.unlink()


def table_text(columns, rows):
    """A comma-separated table; numbers with two decimals, a hundredth of a pixel."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(
        [f"{value:.2f}" if isinstance(value, float) else value for value in row] for row in rows
    )
    return text.getvalue()


class Journal:
    """OUT/.NAME.jsonl: a first line saying how it is made, then one line a picture, the later one counting.

    Opened with another `how`, it is refused: half a data set of each kind would be neither.
    """

    def __init__(self, out, name, how):
        self.path, self.entries = out / f".{name}.jsonl", {}
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
        lines = self.path.read_bytes().split(b"\n") if self.path.exists() else [b""]
        if lines[-1]:  # a stop in the middle of a line: cut it off
            with open(self.path, "r+b") as file:
                file.truncate(sum(len(line) + 1 for line in lines[:-1]))
        for number, line in enumerate(lines[:-1]):
            try:
                entry = json.loads(line)
            except ValueError as problem:
                raise UserError(
                    f"{self.path}: line {number + 1} is damaged; delete the file to begin anew"
                ) from problem
            if number:
                self.entries[entry["file"]] = entry
            elif entry["how"] != how:
                there, here = differing(entry["how"], how), differing(how, entry["how"])
                raise UserError(
                    f"{out}: was begun with {there!r}, this command says {here!r}; give another OUT"
                )
        if len(lines) < 2:
            self._write({"how": how})

    def _write(self, entry):
        with writing(self.path), open(self.path, "ab") as file:
            file.write(json.dumps(entry).encode() + b"\n")

    def add(self, entry):
        self.entries[entry["file"]] = entry
        self._write(entry)

    def done(self, file):
        """Whether this picture is in OUT; one left out is tried again, as its source may have been mended."""
        return (
            file in self.entries
            and "problem" not in self.entries[file]
            and (self.path.parent / file).is_file()
        )

    def check_source(self, offered):
        """UserError when OUT holds a picture that SOURCE has not, or has with another number of bytes.

        offered: (file in OUT, bytes in SOURCE, or None where it is not copied) of all that SOURCE has. Pictures that were
        left out do not count: they may have been deleted from SOURCE since.
        """
        strange = {file for file, entry in self.entries.items() if "problem" not in entry}
        for file, size in offered:
            if file in strange:
                path = self.path.parent / file
                if size is None or not path.is_file() or path.stat().st_size == size:
                    strange.remove(file)
        if strange:
            many = f"{len(strange):,} picture{'s' if len(strange) > 1 else ''}"
            raise UserError(
                f"{self.path.parent}: holds {many} that SOURCE has not, or has with other content, such as "
                f"{min(strange)}: it was begun from another SOURCE; give another OUT"
            )


def differing(how, other):
    """The parts of a `how` that `other` has not, on one line; all of it where there is none."""
    parts = [part for part in how.split(", ") if part not in other.split(", ")]
    return textwrap.shorten(", ".join(parts) or how, 200)


def decode(data):
    """Bytes as an RGB picture; BadItem if they are none, down to the last pixel, or more than MOST_PIXELS."""
    try:
        with Image.open(
            io.BytesIO(data), formats=FORMATS
        ) as picture:  # reads the size, not yet the pixels
            if picture.width * picture.height > MOST_PIXELS:
                raise BadItem(
                    f"is {picture.width} x {picture.height}, more than the {MOST_PIXELS:,} pixels that are allowed"
                )
            return picture.convert("RGB")
    except (
        UnidentifiedImageError
    ) as problem:  # its own text names an address in memory, another on every run
        raise BadItem("cannot be read as a picture (no picture format is known)") from problem
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as problem:
        raise BadItem(f"cannot be read as a picture ({problem})") from problem


def gather(out, journal, items, faces, record, log=print):
    """Bring every item into OUT that is not there.

    items yields (file in OUT, names it may have in a table of faces, path in SOURCE or load() -> bytes, what is known).
    record(picture, its faces, what is known) makes the journal's entry. Both may raise BadItem. Faces are found in a thread
    a core; files are loaded, recorded and written here, in order, since an archive can be read by one at a time.
    """
    began, count, workers, waiting = time.monotonic(), 0, cores(), deque()
    fresh = (item for item in items if not journal.done(item[0]))
    torch.set_num_threads(1)  # two threads that find faces outrun one that computes in two
    with ThreadPoolExecutor(workers) as pool:
        while True:
            while len(waiting) < workers and (chunk := list(itertools.islice(fresh, AT_ONCE))):
                waiting.append(
                    pool.submit(look, [(*item, loaded(item[2])) for item in chunk], faces)
                )
            if not waiting:
                break
            for (file, _, _, known, data), found in waiting.popleft().result():
                try:
                    if isinstance(found, BadItem):
                        raise found
                    entry = {"file": file, **record(*found, known)}
                    write_file(out / file, data)
                    journal.add(entry)
                except BadItem as problem:
                    journal.add({"file": file, "problem": str(problem)})
                count += 1
                if count % 1000 == 0:
                    log(
                        f"{count:,} pictures, {count / (time.monotonic() - began):.1f} a second",
                        flush=True,
                    )


def loaded(load):
    """The bytes of a path, or that load() gives, or why there are none, as a BadItem."""
    try:
        return load.read_bytes() if isinstance(load, Path) else load()
    except (
        BadItem,
        OSError,
        EOFError,
        RuntimeError,
        zlib.error,
        tarfile.TarError,
        zipfile.BadZipFile,
    ) as problem:
        return BadItem(str(problem))


def look(chunk, faces):
    """Decode the bytes that each item ends in and find its faces: pairs of the item and (picture, faces) or a BadItem."""
    seen = []
    for item in chunk:
        try:
            if isinstance(item[-1], BadItem):
                raise item[-1]
            seen.append(decode(item[-1]))
        except BadItem as problem:
            seen.append(problem)
    good = [i for i, picture in enumerate(seen) if not isinstance(picture, BadItem)]
    found = faces([chunk[i][1] for i in good], [seen[i] for i in good]) if good else []
    for i, here in zip(good, found):
        seen[i] = seen[i], here
    return list(zip(chunk, seen))


def left_out(out, name, journal):
    """Name the pictures that were left out, here and in OUT/left_out_NAME.txt; returns how many."""
    lines = [
        f"{file}: {entry['problem']}"
        for file, entry in sorted(journal.entries.items())
        if "problem" in entry
    ]
    write_file(out / f"left_out_{name}.txt", "".join(f"{line}\n" for line in lines))
    for line in lines[:NAMED]:
        print(f"left out: {line}", file=sys.stderr)
    if len(lines) > NAMED:
        print(
            f"left out: {len(lines) - NAMED} more, see {out / f'left_out_{name}.txt'}",
            file=sys.stderr,
        )
    return len(lines)


def count_line(what, have, official=None):
    """One line of the closing report: what there is, and against the official count what is missing."""
    if official is None:
        return f"{what}: {have:,}"
    less = official - have
    return f"{what}: {have:,} of {official:,}" + (
        f", {less:,} missing" if less > 0 else f", {-less:,} too many" if less else ""
    )


# ---------------------------------------------------------------- the two prepared folders


def prepare_faces(out, split, source, pictures, faces, of=""):
    """Pictures into OUT/split, and landmarks.csv anew from the journals of both splits.

    source: as `open_source` gives it; pictures: a list of (name in it, PERSON/PICTURE below the split); of: what else must
    be the same for an unfinished OUT to be gone on with.
    Returns (pictures in OUT/split as person/picture, how many were left out).
    """

    def record(picture, found, known):
        box, points = main_face(found, picture)
        return {"box": box, "points": points}

    journal = Journal(out, split, f"faces by {faces.name}{of}")
    journal.check_source((f"{split}/{file}", source.size(name)) for name, file in pictures)
    items = (
        (
            f"{split}/{file}",
            [name, f"{split}/{file}", file],
            lambda name=name: source.read(name),
            None,
        )
        for name, file in pictures
    )
    gather(out, journal, items, faces, record)
    entries = {}
    for path in out.glob(
        ".t*.jsonl"
    ):  # .train.jsonl and .test.jsonl: two scripts may share one OUT
        for line in path.read_bytes().splitlines()[1:]:
            entry = json.loads(line)
            entries[entry["file"]] = entry
    rows = [
        [file, *entry["box"], *entry["points"]]
        for file, entry in sorted(entries.items())
        if "problem" not in entry
    ]
    mine = [row[0].removeprefix(f"{split}/") for row in rows if row[0].startswith(f"{split}/")]
    if not mine:
        raise UserError(
            f"no usable person/picture was found ({len(journal.entries)} left out); check SOURCE"
        )
    write_file(out / "landmarks.csv", table_text(["file", *BOX_COLUMNS, *POINT_COLUMNS], rows))
    return mine, left_out(out, split, journal)


def prepare_actions(out, items, faces, how, offered):
    """Items (file, names, path or load, (split, people)) into OUT, with annotations.csv and faces.csv.

    items(done): the items, given a function that says of a file whether it is in OUT already; offered: as
    `Journal.check_source` takes it;
    people(width, height) -> list of (action, box px), or raises BadItem. Returns (entries in OUT, how many were left out).
    """

    def record(picture, found, known):
        split, people = known
        return {
            "split": split,
            "size": picture.size,
            "people": people(*picture.size),
            "faces": [box for box, _ in found],
        }

    journal = Journal(out, "actions", f"{how}, faces by {faces.name}")
    journal.check_source(offered)
    gather(out, journal, items(journal.done), faces, record)
    entries = [entry for _, entry in sorted(journal.entries.items()) if "problem" not in entry]
    if not entries:
        raise UserError(
            f"no usable frame was found ({len(journal.entries)} left out); check SOURCE"
        )
    people = [
        [e["file"], e["split"], action, *e["size"], *map(float, box)]
        for e in entries
        for action, box in e["people"]
    ]
    write_file(
        out / "annotations.csv",
        table_text(["file", "split", "action", "width", "height", *BOX_COLUMNS], unique(people)),
    )
    boxes = [[e["file"], *map(float, box)] for e in entries for box in e["faces"]]
    write_file(out / "faces.csv", table_text(["file", *BOX_COLUMNS], unique(boxes)))
    return entries, left_out(out, "actions", journal)


def clipped(box, width, height):
    """A person box (x0, y0, x1, y1) cut at the frame's edges; BadItem if nothing of it is left."""
    x0, y0, x1, y1 = (float(value) for value in box)
    x0, y0, x1, y1 = max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))
    if not (
        x1 - x0 >= 0.01 and y1 - y0 >= 0.01
    ):  # a hundredth of a pixel is what the table resolves; also NaN
        raise BadItem(
            f"its person box ({', '.join(f'{float(v):g}' for v in box)}) has no area in the {width} x {height} frame"
        )
    return x0, y0, x1, y1


def unique(rows):
    """Rows without those that would read the same as an earlier one: the readers refuse a row that comes twice."""
    return list({table_text([], [row]): row for row in rows}.values())


def is_picture(name):
    """Whether the readers take this for a picture; macOS's ._ companions only look like one."""
    return Path(name).suffix.lower() in SUFFIXES and not Path(name).name.startswith(".")
