"""Reading pictures, tables and text, and writing files whole or not at all (ours, not the paper's).

What it reads was often made by strangers: pictures are decoded by a few safe decoders and limited
in size, and whatever is wrong is a `DataError` that names the file (of a table also the line) and
says how to fix it.
"""

import csv
import errno
import json
import math
import os
import re
import signal
import socket
import sqlite3
import sys
import tempfile
import threading
import time
import unicodedata
import warnings
import zlib
from contextlib import closing, contextmanager, suppress
from io import BytesIO, StringIO
from itertools import chain
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")  # of Pillow's others, some start programs
MAX_PIXELS = 50_000_000  # ours: of one picture; a small file can claim any number
LARGEST = 1e30  # ours: numbers of a table are smaller, also as float32
UNEQUAL = 0.01  # ours: of a fold, pairs of one kind too many; chance is then 49.5 %
STOPS = ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGXCPU")  # of kill, a terminal, batch systems

warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # refused by name anyway


class DataError(ValueError):
    """Data that cannot be used as they are."""


class BadPicture(DataError):
    """One picture that cannot be used; a reader may leave it out and go on."""


class WriteError(OSError):
    """An output that could not be written; `str(error)` is the whole sentence."""


# ---------------------------------------------------------------- writing


@contextmanager
def atomic_path(path, durable: bool = True):
    """Give the block a temporary path, which becomes `path` if the block ends well.

    Folders are made as needed. The temporary file, `.NAME.PROCESS.part` beside `path`, is written
    at once, so that a place that cannot be written is noticed before the work, and is removed if
    the block fails. durable: the content is on the disk before the name, against power failures.
    Raises WriteError for any OSError, from the block as well.
    """
    path = Path(path)
    start = os.fsencode(path.name)[:200].decode(errors="ignore")  # names may have 255 bytes
    temporary = path.with_name(f".{start}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(b"")
        with suppress(FileNotFoundError):
            path.lstat()  # fails where the name is too long
        yield temporary
        if durable:
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except WriteError:  # not from itself, or what it holds would live on
        raise
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def write_file(path, content: str | bytes, durable: bool = True) -> None:
    """Write text (as UTF-8) or bytes to `path`, whole or not at all. Raises WriteError."""
    with atomic_path(path, durable) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def write_error(path, error: OSError) -> WriteError:
    """The WriteError that says what went wrong at `path` and how to fix it."""
    full = "free some disk space and run the same command again"
    fixes = {errno.ENOSPC: full, errno.EDQUOT: full, errno.ENAMETOOLONG: "choose a shorter name"}
    fix = fixes.get(error.errno, "choose another place, or see that this one can be written")
    return WriteError(f"cannot write {path} ({error.strerror or error}): {fix}")


def unlink_unfinished(path) -> None:
    """Remove a file that `atomic_path` of a killed process left, if it is one by its name."""
    if re.fullmatch(r"\..+\.\d+\.part", path.name):
        path.unlink(missing_ok=True)


@contextmanager
def on_signals(handler):
    """In the block `handler` is called at STOPS, but those ignored, as nohup ignores SIGHUP."""
    main = threading.current_thread() is threading.main_thread()  # no other one gets signals
    numbers = [getattr(signal, name) for name in STOPS if main and hasattr(signal, name)]
    heeded = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in heeded}
    try:
        yield
    finally:
        for number, usual in before.items():
            signal.signal(number, usual)


def check_writable(folder) -> None:
    """WriteError unless a file can be made in `folder`, or where that would be made."""
    try:
        tempfile.TemporaryFile(dir=existing(folder)).close()
    except OSError as error:
        raise write_error(Path(folder).absolute(), error) from error


def existing(folder) -> Path:
    """`folder`, or the nearest folder above it that is there."""
    folder = Path(folder).absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())


@contextmanager
def lock(folder):
    """Keep other runs out of `folder` during the block; DataError names the one that is in it.

    SQLite locks the file `.lock` on every system, until its process ends in any way; `.lock.txt`
    says whose it is. A file system without locks is only warned of.
    """
    check_writable(folder)
    path = Path(folder, ".lock")
    owner = path.with_suffix(".txt")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.touch()  # SQLite would not say why it cannot
    except OSError as error:
        raise write_error(folder, error) from error
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as connection:
        try:
            connection.execute("PRAGMA journal_mode = OFF")  # no second file beside it
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.Error as error:
            if "locked" in str(error):
                who = read_text(owner) if owner.exists() else "another run"
                fault = f"{folder} is in use by {who}"
                raise DataError(f"{fault}: wait for its end, or choose another folder") from error
            print(f"{path} cannot be locked ({error}): start no second run here", file=sys.stderr)
        now = time.strftime("%Y-%m-%d %H:%M")
        write_file(owner, f"process {os.getpid()} on {socket.gethostname()}, since {now}", False)
        try:
            yield
        finally:
            owner.unlink(missing_ok=True)


# ---------------------------------------------------------------- text and tables


def file_name(row: str) -> str:
    """A row's printed name as a folder name that every system accepts."""
    return "".join(c if c.isalnum() or c in "-." else "_" for c in row).strip("_")


def say_unused(where, what: str, unused: list) -> None:
    """Say how many things that were found in a place are not used, and name the first."""
    if unused:
        print(f"{where}: {len(unused)} {what} are not used, such as {unused[0]}", file=sys.stderr)


def is_hidden(path) -> bool:
    """Whether listings leave out this file or folder, like macOS's `.DS_Store` and `._` files."""
    return Path(path).name.startswith(".")


def is_picture(path) -> bool:
    """Whether the name is that of a picture that is read."""
    return Path(path).suffix.lower() in SUFFIXES and not is_hidden(path)


def plain_name(file: str) -> str:
    """The one spelling of a picture's name in which tables, folders and pairs are compared.

    Composed characters (macOS decomposes them), "/" instead of Windows' backslash, no "./", and the
    suffix in small letters.
    """
    path = PurePosixPath(unicodedata.normalize("NFC", file).replace("\\", "/"))
    return (path.parent / (path.stem + path.suffix.lower())).as_posix()


def find_picture(folder, file: str) -> Path:
    """The path in `folder` whose `plain_name` is `file`; `folder / file` where there is none."""
    stem, dot, suffix = file.rpartition(".")
    for form in ("NFC", "NFD"):
        for ending in (suffix, suffix.upper(), suffix.title()):
            path = Path(folder, unicodedata.normalize(form, stem) + dot + ending)
            if path.is_file():
                return path
    return Path(folder, file)


def read_text(path, kind: str = "file") -> str:
    """The text of a file in UTF-8, with or without a byte order mark.

    Raises DataError, which calls the file a `kind`.
    """
    if not Path(path).is_file():
        raise DataError(f"{path}: there is no such {kind}; check the path")
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except (UnicodeDecodeError, OSError) as error:
        fault = f"cannot be read as a {kind} ({error})"
        raise DataError(f"{path}: {fault}; save it in UTF-8") from error


def read_json(path, fix: str = "delete it and run the same command again", needs=()) -> dict:
    """The dict that a JSON file of ours holds.

    fix: what to do if it is damaged. needs: keys that it must have. Raises DataError.
    """
    if not Path(path).exists():
        raise DataError(f"{path} does not exist: check its name, or run what writes it")
    try:
        content = json.loads(read_text(path))
        if not isinstance(content, dict):
            raise ValueError("it is no JSON object")
        if lacking := [key for key in needs if key not in content]:
            raise ValueError(f"it lacks {lacking[0]}")
    except ValueError as error:
        raise DataError(f"{path} cannot be read ({error}): {fix}") from error
    return content


def read_table(path, columns, may_be_empty: bool = False) -> list[dict]:
    """Read a table with a header, its cells separated by commas, tabs or semicolons.

    columns: names of those that must be there. If "file" is one, no row may leave it empty, and
    names come as `plain_name` has them. may_be_empty: whether the header alone will do.

    Returns a dict of text for each row, blanks around the cells stripped, and in it "where" ("FILE,
    line N"); None where the row is shorter than the header. Raises DataError for an absent file, an
    absent column or two of one name, a row longer than the header, or no rows.
    """
    text = unicodedata.normalize("NFC", read_text(path, "table"))
    delimiter = next((mark for mark in "\t,;" if mark in text.partition("\n")[0]), ",")
    if delimiter != ",":  # decimal commas are common in such tables
        text = re.sub(r"(?<![^\t;\n])( *-?\d+),(\d+)(?= *[\t;\r\n]| *$)", r"\1.\2", text)
    reader = csv.DictReader(StringIO(text), delimiter=delimiter)
    rows = []
    suffixes = {}  # of each plain name, as the table has it
    try:
        names = reader.fieldnames = [name.strip() for name in reader.fieldnames or []]
        if twice := next((name for name in names if name and names.count(name) > 1), ""):
            raise DataError(f"{path}: two columns are named {twice}; delete or rename one")
        if missing := ", ".join(column for column in columns if column not in names):
            raise DataError(f"{path}: its first line lacks the column(s) {missing}; add them")
        for cells in reader:
            where = f"{path}, line {reader.line_num}"
            surplus = cells.pop(None, [])
            if any(map(str.strip, surplus)):
                fault = f"has {len(names) + len(surplus)} cells, the first line {len(names)}"
                raise DataError(f"{where}: {fault}; put quotes about cells with commas")
            row = {name: cell and cell.strip() for name, cell in cells.items()} | {"where": where}
            if "file" in columns:
                if not row["file"]:
                    raise DataError(f"{where}: file is empty; name the picture, or delete the row")
                name = plain_name(row["file"])
                suffix = Path(row["file"]).suffix
                if suffixes.setdefault(name, suffix) != suffix:
                    fault = f"{row['file']} ends in {suffixes[name]} further up"
                    raise DataError(f"{where}: {fault}; rename one picture, or write both alike")
                row["file"] = name
            rows.append(row)
    except csv.Error as error:
        raise DataError(f"{path}: cannot be read as a table ({error}); save it as CSV") from error
    if not rows and not may_be_empty:
        raise DataError(f"{path}: there is no row below the header; make it again")
    return rows


def numbers(row: dict, columns) -> list[float]:
    """The values of `columns` in a row of `read_table`; DataError for one that is no number."""
    values = []
    for column in columns:
        try:
            value = float(row[column].replace("_", "?"))  # Python takes 3_4 for 34
        except (AttributeError, ValueError):  # None where the row is too short
            value = math.nan
        if not abs(value) < LARGEST:
            fault = f"{row['where']}: {column} is {row[column]!r}, not a finite number of 32 bits"
            raise DataError(f"{fault}; correct or delete the row")
        values.append(value)
    return values


def read_pair_lines(path) -> list[tuple[str, str, bool, int]]:
    """Read a verification list in LFW's format.

    Its first line holds the number of folds and N; a fold is N lines `name i j` (pictures i and j
    of one person), then N lines `name i other j`. Returns (first, second, same, fold) of each pair,
    pictures named as LFW does: "name/name_0001". Raises DataError for a line of another form, a
    pair that comes twice, or another number of lines than promised.
    """
    text = unicodedata.normalize("NFC", read_text(path))
    header, *lines = [line.split() for line in text.splitlines() if line.strip()] or [[]]
    if len(header) != 2 or not "".join(header).isdecimal():
        fault = f"its first line is {' '.join(header)!r}"
        raise DataError(f"{path}: {fault}; it must hold folds and pairs, as LFW's 10 300")
    folds, each = map(int, header)
    if not lines or len(lines) != 2 * folds * each:
        fault = f"has {len(lines)} pairs, its first line promises {2 * folds * each}"
        raise DataError(f"{path}: {fault}; download it again")
    pairs = {}  # {the two: the pair in the list's order}
    for number, line in enumerate(lines):
        fold, place = divmod(number, 2 * each)
        same = place < each
        words = [*line[:2], line[0], *line[2:]] if same else line  # name i other j
        ends = []
        if len(words) == 4 and (words[1] + words[3]).isdecimal():
            if same == (words[0] == words[2]):
                ends = [f"{name}/{name}_{int(i):04d}" for name, i in (words[:2], words[2:])]
        if len(set(ends)) < 2 or frozenset(ends) in pairs:
            form = "name i j" if same else "name i other j"
            fault = f"{path}: pair {number + 1} ({' '.join(line)})"
            raise DataError(f"{fault} must be {form}, of two pictures, and new; correct it")
        pairs[frozenset(ends)] = (*ends, same, fold)
    return list(pairs.values())


def find_pairs(pairs_txt, names: list[str]):
    """Find the pairs of a file in LFW's format among the `names` "person/picture" of a set.

    Returns (first, second, same, fold) of those whose pictures are both there, and the others as
    text; how many those are is printed. Where a fold is left with many more pairs of one kind, its
    last ones go too: an attacker who sees nothing would else not err on half of them.

    Raises DataError for what `read_pair_lines` refuses, for a name that is there in other letters,
    and unless two folds or more are left with pairs of one person and of two in each.
    """
    pairs = read_pair_lines(pairs_txt)
    position = {name: i for i, name in enumerate(names)}
    spelled = {name.casefold(): name for name in names}
    kept = {(fold, same): [] for *_, same, fold in pairs}
    dropped = []
    for first, second, same, fold in pairs:
        absent = [name for name in (first, second) if name not in position]
        for name in absent:
            if there := spelled.get(name.casefold()):
                fault = f"{pairs_txt}: names {name}, the folder has {there}"
                raise DataError(f"{fault}; write the names alike")
        if absent:
            dropped.append(f"{first} {second}")
        else:
            kept[fold, same].append((position[first], position[second], same, fold))
    said = f"{len(dropped)} of {len(pairs)} pairs are dropped, as the set lacks a picture of each"
    folds = len(kept) // 2
    extras = []
    for fold in range(folds):
        of_one, of_two = kept[fold, True], kept[fold, False]
        fewer, more = sorted((of_one, of_two), key=len)
        if not fewer or folds < 2:
            have = f"{len(of_one)} and {len(of_two)} pairs of one person and of two"
            fault = f"{pairs_txt}: fold {fold + 1} of {folds} has {have}"
            such = f"in a set that has {''.join(names[:1]) or 'nothing'}"
            need = "at least two folds need both: restore the pictures or pairs"
            raise DataError(f"{fault} {such}; {need} ({said})")
        if len(more) - len(fewer) > UNEQUAL * (len(pairs) // folds):
            extras += more[len(fewer) :]
            del more[len(fewer) :]
    if dropped:
        more = f"{len(extras)} pairs more are dropped, so that each fold has as many of both kinds"
        print(f"{pairs_txt}: {said}: {', '.join(dropped[:3])}; {more}", file=sys.stderr)
    dropped += [f"{names[first]} {names[second]}" for first, second, *_ in extras]
    return list(chain.from_iterable(kept.values())), dropped


# ---------------------------------------------------------------- pictures


def open_picture(path) -> Image.Image:
    """The picture in a file as upright RGB, see `decode_picture`; BadPicture names the file."""
    return read_picture(path)[0]


def read_picture(path):
    """As `open_picture`, and the file's (bytes, CRC-32), by which it is known wherever it lies."""
    if not Path(path).is_file():
        raise BadPicture(f"{path}: there is no such picture; restore it or delete its row")
    try:
        content = Path(path).read_bytes()
        return decode_picture(BytesIO(content)), (len(content), zlib.crc32(content))
    except BadPicture as error:
        raise BadPicture(f"{path}: {error}; replace the file") from error
    except OSError as error:
        raise BadPicture(f"{path}: cannot be read ({error.strerror}); restore it") from error


def decode_picture(source, max_pixels: int = MAX_PIXELS, formats=FORMATS) -> Image.Image:
    """Decode a picture to its last pixel: a truncated one fails here, not during training.

    source: a path or an open binary file. max_pixels: the most that it may have. formats: Pillow's
    names of those that are tried, whatever the file's suffix. Returns a Pillow picture as `to_rgb`
    makes it. Raises BadPicture without the file's name.
    """
    try:
        with Image.open(source, formats=formats) as picture:  # reads the size, not yet the pixels
            width, height = picture.size
            if width * height > max_pixels:
                raise ValueError(f"{width} x {height}, more than the {max_pixels:,} pixels allowed")
            return to_rgb(picture)
    except UnidentifiedImageError:  # its own text names an address in memory, another on every run
        reason = "no picture format is known"
    except MemoryError:
        raise
    except Exception as error:  # a damaged or forged file raises one of many types
        reason = str(error).strip() or type(error).__name__
    raise BadPicture(f"cannot be read as a picture ({reason})")


def to_rgb(picture: Image.Image) -> Image.Image:
    """Any Pillow picture as RGB in 8 bits, ready for the networks.

    Upright as its EXIF data say, 16 bits scaled to 8, sRGB by its color profile, and white where it
    is transparent. Raises ValueError for gray of other kinds, whose black and white nobody knows.
    """
    picture.load()
    with suppress(Exception):  # damaged EXIF data: the picture stays as it is stored
        ImageOps.exif_transpose(picture, in_place=True)
    profile = picture.info.get("icc_profile")
    if picture.mode[0] in "IF":  # gray in 16 or 32 bits
        values = np.asarray(picture)  # (H, W)
        tags = getattr(picture, "tag_v2", {})  # of a TIFF: 258 its bits, 262 is 0 if 0 is white
        known = tags.get(258, (16,)) == (16,) and tags.get(262) != 0
        if picture.mode == "F" or not known or values.min() < 0 or values.max() > 65535:
            raise ValueError("its gray is not of 16 bits; save it with 8 or 16 bits a channel")
        values = (values.astype(np.int64) * 255 + 32767) // 65535
        picture = Image.fromarray(values.astype(np.uint8))
    elif picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    if profile:
        if picture.mode not in ("RGB", "CMYK", "L"):
            picture = picture.convert("RGB")
        srgb = ImageCms.createProfile("sRGB")
        with suppress(ImageCms.PyCMSError):  # damaged, or made for another kind of pixel
            picture = ImageCms.profileToProfile(picture, BytesIO(profile), srgb, outputMode="RGB")
    return picture if picture.mode == "RGB" else picture.convert("RGB")


# ---------------------------------------------------------------- progress


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def print_progress(text: str, end: bool = False) -> None:
    """Print to stderr: on a terminal one line, rewritten until `end`; elsewhere plain lines."""
    if sys.stderr.isatty():
        text = f"\r\033[K{text}" + "\n" * end
    else:
        text += "\n"
    print(text, end="", file=sys.stderr, flush=True)  # in one piece: jobs print at the same time
