"""What the prepare_* scripts share: one prepared format, written so that any stop is harmless.

A script lists its items: where the picture goes in OUT, how its bytes are had, and what is known
about it. `gather` decodes each (a damaged one is named and left out), finds the faces, writes the
picture, then adds a line to a journal in OUT. A picture in the journal is never done again, so the
same command goes on after any stop; the tables are made of the journals at the end:

    faces      OUT/train|test/PERSON/PICTURE, landmarks.csv    (for `ppad.datasets.read_faces`)
    actions    OUT/.../PICTURE, annotations.csv, faces.csv     (for `ppad.datasets.read_actions`)

Pictures are copied as they are, so nothing is lost to a second compression; boxes and landmarks are
those of the upright picture, as `ppad.files` reads it. Nothing outside OUT is written.
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

# `python data_scripts/x.py` leaves the project out
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

AT_ONCE = 16  # ours: pictures that the face finder gets together
NAMED = 20  # ours: left-out pictures that are named on the screen; left_out_*.txt names all


# ---------------------------------------------------------------- command line


def arguments(doc, actions=False):
    """The parser that the scripts share: SOURCE OUT, a table instead of the finder, a device."""
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
            help="how faces are found: the paper's rule is SSH above 0.8 that MTCNN confirms "
            "(Sec. 4); see ppad/ssh.py; by any rule, faces below 0.8 are left out",
        )
    parser.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="where faces are found",
    )
    return parser


def run(main, argv=None, stopped="the same command goes on from here"):
    """Call main(argv); what the user can fix ends in one sentence and status 2, Ctrl-C in 130.

    So do the signals of a closed terminal and a batch system. stopped: what to do after a stop.
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
        raise DataError(
            f"OUT {out} and SOURCE {source} lie in one another; give a folder of its own as OUT"
        )
    if out.exists() and not out.is_dir():
        raise DataError(f"OUT {out} is a file; give a folder")
    for table in tables:
        if table and table.resolve().is_relative_to(out):
            raise DataError(f"{table}: lies in OUT, which is written to; move it out of there")


# ---------------------------------------------------------------- pictures into OUT


def gather(out, journal, items, faces, record):
    """Bring every item into OUT that is not there.

    Faces are found in a thread for each core; files are loaded, recorded and written here, in
    order, since an archive can be read by one thread at a time.

    Args:
        items: Yields (file in OUT, names it may have in a table of faces, path in SOURCE or
            load() -> bytes, what is known).
        record: Function of the picture, its faces and what is known -> the journal's entry. It and
            load() may raise BadPicture.
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
            chunk, contents, result = waiting.popleft()
            for (file, _, _, known), content, found in zip(chunk, contents, result.result()):
                try:
                    if isinstance(found, BadPicture):
                        raise found
                    crc = zlib.crc32(content)
                    entry = {"file": file, "crc": crc, **record(*found, known)}
                    write_picture(out / file, content)
                    journal.add(entry)
                except BadPicture as error:
                    journal.add({"file": file, "problem": str(error)})
                count += 1
                if count % 1000 == 0:
                    rate = count / (time.monotonic() - start)
                    print(f"{count:,} pictures, {rate:.1f} a second", flush=True)


def clear_unfinished(out):
    """Delete what `ppad.files` was about to write when a run in OUT was killed; OUT is locked."""
    for path in out.rglob(".*.part"):
        unlink_unfinished(path)


def write_picture(path, content):
    """Write a picture that is not in the journal; DataError if another one lies there.

    The same one may: a run can stop before it adds a picture to the journal.
    """
    if path.exists() and path.read_bytes() != content:
        raise not_ours(path)
    write_file(path, content, durable=False)


def look(chunk, contents, faces):
    """Decode the contents of some items and find their faces: (picture, faces) or a BadPicture."""
    pictures = [decoded(content) for content in contents]
    good = [i for i, picture in enumerate(pictures) if not isinstance(picture, BadPicture)]
    found = faces([chunk[i][1] for i in good], [pictures[i] for i in good]) if good else []
    results = list(pictures)
    for i, faces_here in zip(good, found):
        results[i] = (pictures[i], faces_here)
    return results


def decoded(content):
    """Bytes as an upright RGB picture, or a BadPicture that says why not."""
    if isinstance(content, BadPicture):
        return content
    try:
        return decode_picture(io.BytesIO(content))
    except BadPicture as error:
        return error


def left_out(out, name, journal, skipped=()):
    """Name the pictures that were left out, here and in OUT/left_out_NAME.txt; returns how many.

    skipped: {name in SOURCE: why} of those that never came to the journal.
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
        f"no usable {what} was found in SOURCE ({lost:,} left out); -h says how it must look"
    )


def count_line(what, have, official=None):
    """One line of the closing report: what there is and, against the official count, is missing."""
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
    """`check_unclaimed` for all that `prepare_faces` and its caller write of one half."""
    files = [f"{split}/{file}" for _, file in pictures]
    check_unclaimed(out, [split], [*files, f"left_out_{split}.txt", *also])
    check_unclaimed(out, ["train", "test"], ["landmarks.csv"])


def prepare_faces(out, split, source, pictures, faces, of="", also=(), skipped=()):
    """Pictures into OUT/split, and landmarks.csv anew from the journals of both splits.

    Args:
        source: As `open_source` gives it.
        pictures: A list of (name in it, PERSON/PICTURE below the split).
        of: What else must be the same for an unfinished OUT to be gone on with.
        also: Other files that the caller writes into OUT.
        skipped: {name in SOURCE: why} of pictures that the caller leaves out.

    Returns:
        The pictures in OUT/split as person/picture, and how many were left out.
    """
    check_names(pictures)
    with lock(out):
        check_half(out, split, pictures, also)
        journal = Journal(out, split, f"faces by {faces.name}{of}")
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
        mine = [row[0].removeprefix(f"{split}/") for row in rows if row[0].startswith(f"{split}/")]
        lost = left_out(out, split, journal, skipped)
        if not mine:
            raise nothing_usable("person/picture", lost)
        write_file(out / "landmarks.csv", table_text(["file", *BOX_COLUMNS, *POINT_COLUMNS], rows))
        return mine, lost


def table_names(split, name, file):
    """The names that a table of faces may use for a picture: in SOURCE, in OUT, and in its half."""
    return [name, f"{split}/{file}", file]


def check_names(pictures):
    """DataError for two (name in SOURCE, PERSON/PICTURE) that would be one picture, naming both."""
    sources = {}
    for name, file in pictures:
        other = sources.setdefault(plain_name(file).rpartition(".")[0], name)
        if other != name:
            raise DataError(
                f"{other} and {name} would both be {file}, with this suffix or another; rename one "
                "of them, or give a SOURCE that holds one of the two"
            )


def record_portrait(picture, found, known):
    box, points = main_face(found, picture)
    return {"box": box, "points": points}


def both_journals(out):
    """The entries of train and test in order of name: two scripts may share one OUT."""
    entries = {}
    for split in ("train", "test"):
        for entry in read_journal(out / f".{split}.jsonl")[1:]:
            entries[entry["file"]] = entry
    return [entries[file] for file in sorted(entries)]


def prepare_actions(out, items, faces, how, offered, truth):
    """Frames into OUT, with annotations.csv and faces.csv.

    Args:
        items: Function -> items (file, names, path or load, (split, people)); it is given a
            function that says of a file whether it is in OUT already.
            people(width, height) -> list of (action, box px), or raises BadPicture.
        how: What boxes come from, for the journal.
        offered: As `Journal.check_source` takes it.
        truth: {file: (split, people)} of all that SOURCE has.

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
    """DataError when SOURCE now says otherwise what a frame in OUT shows: it would keep the old."""
    for entry in journal.usable():
        split, people = truth[entry["file"]]
        try:
            now = [[action, list(box)] for action, box in people(*entry["size"])]
        except BadPicture:  # it would be left out
            now = None
        if (split, now) != (entry["split"], entry["people"]):
            raise DataError(
                f"{out}: {entry['file']} has another split or other boxes than SOURCE now says: "
                "the annotation was changed; give another OUT"
            )


def record_frame(picture, found, known):
    split, people = known
    return {
        "split": split,
        "size": picture.size,
        "people": people(*picture.size),
        "faces": [box for box, _ in found],
    }


def clipped(box, width, height):
    """A person box (x0, y0, x1, y1) cut at the frame's edges; BadPicture if nothing is left."""
    x0, y0, x1, y1 = (float(value) for value in box)
    inside = (max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height)))
    wide = inside[2] - inside[0] >= 0.01  # px: what the table resolves; False for NaN
    high = inside[3] - inside[1] >= 0.01
    if not (wide and high):
        shown = ", ".join(f"{float(value):g}" for value in box)
        raise BadPicture(f"its person box ({shown}) has no area in the {width} x {height} frame")
    return inside


def unique(rows):
    """Rows without those that would read the same as an earlier one: a reader refuses those."""
    return list({table_text([], [row]): row for row in rows}.values())
