"""What the prepare_* scripts share: they write one format, and can be stopped at any time.

A script lists its items: where each picture goes in OUT, how to load it, and its ground truth.
`gather` decodes each picture (it reports and skips damaged ones), finds the faces, copies the
picture to OUT, then adds a line to a journal there. A picture in the journal is not processed
again, so the same command resumes after any stop. The journals' entries become the tables:

    faces      OUT/train|test/PERSON/PICTURE, landmarks.csv    (for `ppad.datasets.read_faces`)
    actions    OUT/.../PICTURE, annotations.csv, faces.csv     (for `ppad.datasets.read_actions`)

Pictures are copied, never compressed again. Boxes and landmarks refer to the upright picture,
as `ppad.files` reads it. Nothing is written outside OUT.
"""

import argparse
import io
import itertools
import signal
import sys
import time
import zlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch

# a script's sys.path lacks the project's root
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _faces import main_face
from _journal import Journal, check_unclaimed, loaded, not_ours, read_journal, table_text

from ppad.files import (
    BadPicture,
    DataError,
    decode_picture,
    lock,
    on_signals,
    plain_name,
    unlink_unfinished,
    write_file,
)
from ppad.folders import BOX_COLUMNS, POINT_COLUMNS, cores
from ppad.ssh import RULES

AT_ONCE = 16  # ours: pictures per call of the face finder
NAMED = 20  # ours: left-out pictures that are printed; left_out_*.txt lists all


# ---------------------------------------------------------------- command line


def arguments(doc, actions=False):
    """The scripts' shared parser: SOURCE, OUT, --landmarks, --device; --rule for actions."""
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
            default="paper",
            help="how to find faces: the paper's rule is SSH above 0.8, confirmed by MTCNN "
            "(Sec. 4); see ppad/ssh.py; all rules leave out faces below 0.8",
        )
    parser.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="device of the face finder",
    )
    return parser


def run(main, argv=None, stopped="the same command continues from here"):
    """Call main(argv); return 0, 2 for an error (printed in one sentence), or 130 for Ctrl-C.

    SIGTERM, SIGHUP and batch systems' signals act as Ctrl-C. stopped: what to do after a stop.
    """
    try:
        with on_signals(signal.default_int_handler):  # which raises KeyboardInterrupt
            main(argv)
    except (DataError, OSError) as error:
        print(f"{error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"stopped; {stopped}", file=sys.stderr)
        return 130
    return 0


def check_places(source, out, *tables):
    """DataError unless OUT can be written without touching SOURCE or a table that was given."""
    source = source.resolve()
    out = out.resolve()
    if not source.exists():
        raise DataError(f"{source}: there is no such file or folder; check SOURCE")
    if source.is_relative_to(out) or out.is_relative_to(source):
        raise DataError(f"OUT {out} and SOURCE {source}: one contains the other; give another OUT")
    if out.exists() and not out.is_dir():
        raise DataError(f"OUT {out} is a file; give a folder")
    for table in tables:
        if table and table.resolve().is_relative_to(out):
            raise DataError(f"{table}: lies in OUT, where files are written; move it out of there")


# ---------------------------------------------------------------- pictures into OUT


def gather(out, journal, items, faces, record):
    """Process every item whose picture is not in OUT yet.

    One thread per core finds faces. The main thread loads and writes all files, in order, since
    only one thread at a time can read an archive.

    Args:
        items: Yields (file in OUT, names it may have in a table of faces, path in SOURCE or
            load() -> bytes, ground truth).
        record: record(picture, faces, truth) -> the journal's entry. It and load() may raise
            BadPicture.
    """
    start = time.monotonic()
    count = 0
    workers = cores()
    waiting = deque()
    fresh = (item for item in items if not journal.done(item[0]))
    torch.set_num_threads(1)  # two threads that find faces are faster than one that uses two cores
    with ThreadPoolExecutor(workers) as pool:
        while True:
            while len(waiting) < workers and (chunk := list(itertools.islice(fresh, AT_ONCE))):
                contents = [loaded(load) for _, _, load, _ in chunk]
                waiting.append((chunk, contents, pool.submit(look, chunk, contents, faces)))
            if not waiting:
                break
            chunk, contents, future = waiting.popleft()
            for (file, _, _, truth), content, result in zip(chunk, contents, future.result()):
                try:
                    if isinstance(result, BadPicture):
                        raise result
                    crc = zlib.crc32(content)
                    entry = {"file": file, "crc": crc, **record(*result, truth)}
                    write_picture(out / file, content)
                    journal.add(entry)
                except BadPicture as error:
                    journal.add({"file": file, "problem": str(error)})
                count += 1
                if count % 1000 == 0:
                    rate = count / (time.monotonic() - start)
                    print(f"{count:,} pictures, {rate:.1f} a second", flush=True)


def clear_unfinished(out):
    """Delete temporary files that a killed run left in OUT. The caller must hold OUT's lock."""
    for path in out.rglob(".*.part"):
        unlink_unfinished(path)


def write_picture(path, content):
    """Write a picture that is not in the journal; DataError if the file has other content.

    The file may exist: a run can stop before it adds a picture to the journal.
    """
    if path.exists() and path.read_bytes() != content:
        raise not_ours(path)
    write_file(path, content, durable=False)


def look(chunk, contents, faces):
    """Decode a chunk's pictures and find faces: a list of (picture, faces) or a BadPicture."""
    pictures = [decoded(content) for content in contents]
    good = [i for i, picture in enumerate(pictures) if not isinstance(picture, BadPicture)]
    found = faces([chunk[i][1] for i in good], [pictures[i] for i in good]) if good else []
    results = list(pictures)
    for i, faces_here in zip(good, found):
        results[i] = (pictures[i], faces_here)
    return results


def decoded(content):
    """Bytes as an upright RGB picture, or a BadPicture with the reason."""
    if isinstance(content, BadPicture):
        return content
    try:
        return decode_picture(io.BytesIO(content))
    except BadPicture as error:
        return error


def left_out(out, name, journal, skipped=()):
    """List the pictures left out on stderr and in OUT/left_out_NAME.txt; return their number.

    skipped: {name in SOURCE: reason} of pictures that are not in the journal.
    """
    lines = [
        f"{file}: {entry['problem']}"
        for file, entry in sorted(journal.entries.items())
        if "problem" in entry
    ]
    lines += [f"{file}: {why}" for file, why in sorted(dict(skipped).items())]
    listing = out / f"left_out_{name}.txt"
    write_file(listing, "".join(f"{line}\n" for line in lines))
    for line in lines[:NAMED]:
        print(f"left out: {line}", file=sys.stderr)
    if len(lines) > NAMED:
        print(f"left out: {len(lines) - NAMED} more, see {listing}", file=sys.stderr)
    return len(lines)


def nothing_usable(what, lost):
    return DataError(
        f"no usable {what} was found in SOURCE ({lost:,} left out); -h says how to arrange it"
    )


def count_line(what, have, official=None):
    """One line of the final report: a count and its difference from the official count."""
    if official is None:
        return f"{what}: {have:,}"
    line = f"{what}: {have:,} of {official:,}"
    if have < official:
        line += f", {official - have:,} missing"
    if have > official:
        line += f", {have - official:,} too many"
    return line


# ---------------------------------------------------------------- the two prepared folders


def check_half(out, split, pictures, also):
    """`check_unclaimed` for all files of a half that `prepare_faces` and its caller write."""
    files = [f"{split}/{file}" for _, file in pictures]
    check_unclaimed(out, [split], [*files, f"left_out_{split}.txt", *also])
    check_unclaimed(out, ["train", "test"], ["landmarks.csv"])


def prepare_faces(out, split, source, pictures, faces, listing="", also=(), skipped=()):
    """Copy pictures to OUT/split; rewrite landmarks.csv from the journals of both splits.

    Args:
        source: What `open_source` returns.
        pictures: A list of (name in source, PERSON/PICTURE).
        listing: Added to the journal's `how`: only a run with the same one can resume OUT.
        also: Other files that the caller writes into OUT.
        skipped: {name in SOURCE: reason} of pictures that the caller leaves out.

    Returns:
        The pictures in OUT/split as person/picture, and how many were left out.
    """
    check_names(pictures)
    with lock(out):
        check_half(out, split, pictures, also)
        journal = Journal(out, split, f"faces by {faces.name}{listing}")
        journal.check_source(
            (f"{split}/{file}", source.size(name), partial(source.read, name))
            for name, file in pictures
        )
        clear_unfinished(out)
        items = (
            (f"{split}/{file}", table_names(split, name, file), partial(source.read, name), None)
            for name, file in pictures
        )
        gather(out, journal, items, faces, record_portrait)
        rows = [
            [entry["file"], *entry["box"], *entry["points"]]
            for entry in both_journals(out)
            if "problem" not in entry
        ]
        files = [row[0].removeprefix(f"{split}/") for row in rows if row[0].startswith(f"{split}/")]
        lost = left_out(out, split, journal, skipped)
        if not files:
            raise nothing_usable("person/picture", lost)
        write_file(out / "landmarks.csv", table_text(["file", *BOX_COLUMNS, *POINT_COLUMNS], rows))
        return files, lost


def table_names(split, name, file):
    """The names of a picture in a table of faces: as in SOURCE, as in OUT, or as in its half."""
    return [name, f"{split}/{file}", file]


def check_names(pictures):
    """DataError if two (name in SOURCE, PERSON/PICTURE) would be one picture in OUT."""
    sources = {}
    for name, file in pictures:
        other = sources.setdefault(plain_name(file).rpartition(".")[0], name)
        if other != name:
            raise DataError(
                f"{other} and {name} would both be {file}, with this suffix or another; rename one "
                "of them, or remove it from SOURCE"
            )


def record_portrait(picture, faces, truth):
    box, points = main_face(faces, picture)
    return {"box": box, "points": points}


def both_journals(out):
    """The entries of train and test, sorted by file: two scripts may share one OUT."""
    entries = {}
    for split in ("train", "test"):
        for entry in read_journal(out / f".{split}.jsonl")[1:]:
            entries[entry["file"]] = entry
    return [entries[file] for file in sorted(entries)]


def prepare_actions(out, items, faces, how, offered, truth):
    """Copy frames to OUT; write annotations.csv and faces.csv.

    Args:
        items: items(done) -> items (file, names, path or load, (split, people)); done(file) says
            whether a file is in OUT already.
            people(width, height) -> list of (action, box px), or raises BadPicture.
        how: The source of the boxes, for the journal.
        offered: See `Journal.check_source`.
        truth: {file: (split, people)} of all frames in SOURCE.

    Returns:
        The entries in OUT, and how many were left out.
    """
    offered = list(offered)
    faces.check_table(file for file, *_ in offered)
    tables = ["annotations.csv", "faces.csv", "left_out_actions.txt"]
    with lock(out):
        check_unclaimed(out, ["actions"], [*tables, *(file for file, *_ in offered)])
        journal = Journal(out, "actions", f"{how}, faces by {faces.name}")
        journal.check_source(offered)
        check_annotations(out, journal, truth)
        clear_unfinished(out)
        gather(out, journal, items(journal.done), faces, record_frame)
        entries = journal.usable()
        lost = left_out(out, "actions", journal)
        if not entries:
            raise nothing_usable("frame", lost)
        people = [
            [e["file"], e["split"], action, *e["size"], *map(float, box)]
            for e in entries
            for action, box in e["people"]
        ]
        columns = ["file", "split", "action", "width", "height", *BOX_COLUMNS]
        write_file(out / "annotations.csv", table_text(columns, unique(people)))
        boxes = [[e["file"], *map(float, box)] for e in entries for box in e["faces"]]
        write_file(out / "faces.csv", table_text(["file", *BOX_COLUMNS], unique(boxes)))
        return entries, lost


def check_annotations(out, journal, truth):
    """DataError if SOURCE's annotation of a frame in OUT changed: OUT would keep the old one."""
    for entry in journal.usable():
        split, people = truth[entry["file"]]
        try:
            now = [[action, list(box)] for action, box in people(*entry["size"])]
        except BadPicture:  # the frame would be left out
            now = None
        if (split, now) != (entry["split"], entry["people"]):
            raise DataError(
                f"{out}: {entry['file']} has another split or other boxes than SOURCE now says: "
                "the annotation was changed; give another OUT"
            )


def record_frame(picture, faces, truth):
    split, people = truth
    return {
        "split": split,
        "size": picture.size,
        "people": people(*picture.size),
        "faces": [box for box, _ in faces],
    }


def clipped(box, width, height):
    """A person box (x0, y0, x1, y1) clipped to the frame; BadPicture if nothing is left."""
    x0, y0, x1, y1 = (float(value) for value in box)
    inside = (max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height)))
    wide = inside[2] - inside[0] >= 0.01  # px, the table's resolution; False for NaN
    high = inside[3] - inside[1] >= 0.01
    if not (wide and high):
        text = ", ".join(f"{float(value):g}" for value in box)
        raise BadPicture(f"its person box ({text}) has no area in the {width} x {height} frame")
    return inside


def unique(rows):
    """Drop rows whose text repeats an earlier row's: the readers refuse duplicates."""
    return list({table_text([], [row]): row for row in rows}.values())
