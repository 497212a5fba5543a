"""Reads pictures, tables and text, and writes files atomically (ours, not the paper's).

Input files may come from strangers: only a few safe decoders open pictures, their size is limited,
and each fault raises a `DataError` that names the file (and the line of a table) and the fix.
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
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")  # some other Pillow decoders start programs
MAX_PIXELS = 50_000_000  # ours: per picture; a small file can claim any size
LARGEST = 1e30  # ours: limit of a table's numbers; fits float32
UNEQUAL = 0.01  # ours: largest surplus of one kind, share of a fold; chance is then 49.5 %
STOPS = ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGXCPU")  # from kill, a closed terminal, batch systems

warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # see decode_picture


class DataError(ValueError):
    """Data that cannot be used as they are."""


class BadPicture(DataError):
    """One picture that cannot be used; a reader may leave it out and go on."""


class WriteError(OSError):
    """An output that could not be written; `str(error)` is a full sentence."""


# ---------------------------------------------------------------- writing


@contextmanager
def atomic_path(path, durable: bool = True):
    """Give the block a temporary path; it is renamed to `path` if the block succeeds.

    Creates missing folders. The temporary file, `.NAME.PROCESS.part` beside `path`, is created
    first, so that an unwritable place fails before the work. It is removed if the block fails.
    durable: sync the content to disk before renaming, in case of a power failure.
    Raises WriteError for any OSError, including the block's.
    """
    path = Path(path)
    start = os.fsencode(path.name)[:200].decode(errors="ignore")  # names may have 255 bytes
    temporary = path.with_name(f".{start}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(b"")
        with suppress(FileNotFoundError):
            path.lstat()  # fails if the name is too long
        yield temporary
        if durable:
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except WriteError:  # it is a full sentence already
        raise
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def write_file(path, content: str | bytes, durable: bool = True) -> None:
    """Write text (as UTF-8) or bytes to `path` atomically. Raises WriteError."""
    with atomic_path(path, durable) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def write_error(path, error: OSError) -> WriteError:
    """The WriteError that says what went wrong at `path` and how to fix it."""
    space = "free some disk space and run the same command again"
    fixes = {errno.ENOSPC: space, errno.EDQUOT: space, errno.ENAMETOOLONG: "choose a shorter name"}
    fix = fixes.get(error.errno, "choose another place, or make this one writable")
    return WriteError(f"cannot write {path} ({error.strerror or error}): {fix}")


def unlink_unfinished(path) -> None:
    """Remove `path` if it is named like a temporary file of `atomic_path`."""
    if re.fullmatch(r"\..+\.\d+\.part", path.name):
        path.unlink(missing_ok=True)


@contextmanager
def on_signals(handler):
    """Call `handler` on STOPS during the block, except on ignored ones (nohup: SIGHUP)."""
    main = threading.current_thread() is threading.main_thread()  # only it gets signals
    numbers = [getattr(signal, name) for name in STOPS if main and hasattr(signal, name)]
    handled = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    previous = {number: signal.signal(number, handler) for number in handled}
    try:
        yield
    finally:
        for number, old in previous.items():
            signal.signal(number, old)


def check_writable(folder) -> None:
    """Raise WriteError unless a file can be created in `folder` or its nearest existing parent."""
    try:
        tempfile.TemporaryFile(dir=existing(folder)).close()
    except OSError as error:
        raise write_error(Path(folder).absolute(), error) from error


def existing(folder) -> Path:
    """`folder`, or the nearest folder above it that exists."""
    folder = Path(folder).absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())


@contextmanager
def lock(folder):
    """Keep other runs out of `folder` during the block; DataError names the run that uses it.

    SQLite locks the file `.lock` on every system; the lock also ends with a killed process.
    `.lock.txt` names the owner. A file system without locks only causes a warning.
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
    """Print how many things found in a place are not used, and name the first."""
    if unused:
        print(f"{where}: {len(unused)} {what} are not used, such as {unused[0]}", file=sys.stderr)


def is_hidden(path) -> bool:
    """Whether a file or folder is hidden, like macOS's `.DS_Store` and `._` files."""
    return Path(path).name.startswith(".")


def is_picture(path) -> bool:
    """Whether the name is a picture's, and not hidden."""
    return Path(path).suffix.lower() in SUFFIXES and not is_hidden(path)


def plain_name(file: str) -> str:
    """A picture's name in the form in which tables, folders and pairs are compared.

    Composed characters (macOS decomposes them), "/" instead of Windows' backslash, no "./", and a
    lower-case suffix.
    """
    path = PurePosixPath(unicodedata.normalize("NFC", file).replace("\\", "/"))
    return (path.parent / (path.stem + path.suffix.lower())).as_posix()


def find_picture(folder, file: str) -> Path:
    """The path in `folder` whose `plain_name` is `file`; `folder / file` if there is none."""
    stem, dot, suffix = file.rpartition(".")
    for form in ("NFC", "NFD"):
        for ending in (suffix, suffix.upper(), suffix.title()):
            path = Path(folder, unicodedata.normalize(form, stem) + dot + ending)
            if path.is_file():
                return path
    return Path(folder, file)


def read_text(path, kind: str = "file") -> str:
    """The text of a file in UTF-8, with or without a byte order mark.

    Raises DataError; it calls the file a `kind`.
    """
    if not Path(path).is_file():
        raise DataError(f"{path}: there is no such {kind}; check the path")
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except (UnicodeDecodeError, OSError) as error:
        fault = f"cannot be read as a {kind} ({error})"
        raise DataError(f"{path}: {fault}; save it in UTF-8") from error


def read_json(path, fix: str = "delete it and run the same command again", needs=()) -> dict:
    """The dict in a JSON file that this package wrote.

    fix: what to do if it is damaged. needs: keys that it must have. Raises DataError.
    """
    if not Path(path).exists():
        raise DataError(f"{path} does not exist: check its name, or run the command that writes it")
    try:
        content = json.loads(read_text(path))
        if not isinstance(content, dict):
            raise ValueError("it is not a JSON object")
        if lacking := [key for key in needs if key not in content]:
            raise ValueError(f"it lacks {lacking[0]}")
    except ValueError as error:
        raise DataError(f"{path} cannot be read ({error}): {fix}") from error
    return content


def read_table(path, columns, may_be_empty: bool = False) -> list[dict]:
    """Read a table with a header, its cells separated by commas, tabs or semicolons.

    columns: names of the required columns. If "file" is one, it must be filled in each row, and is
    returned as a `plain_name`. may_be_empty: accept a table with a header alone.

    Returns for each row a dict of its cells, stripped text, and "where" ("FILE, line N"). A cell is
    None if the row is too short. Raises DataError if the file or a column is absent, two columns
    have one name, a row is longer than the header, or there are no rows.
    """
    text = unicodedata.normalize("NFC", read_text(path, "table"))
    delimiter = next((mark for mark in "\t,;" if mark in text.partition("\n")[0]), ",")
    if delimiter != ",":  # decimal commas are common in such tables
        text = re.sub(r"(?<![^\t;\n\"])( *-?\d+),(\d+)(?= *[\t;\r\n\"]| *$)", r"\1.\2", text)
    reader = csv.DictReader(StringIO(text), delimiter=delimiter)
    rows = []
    suffixes = {}  # {plain name: suffix as the table has it}
    try:
        names = reader.fieldnames = [name.strip() for name in reader.fieldnames or []]
        if double := next((name for name in names if name and names.count(name) > 1), ""):
            raise DataError(f"{path}: two columns are named {double}; delete or rename one")
        if missing := ", ".join(column for column in columns if column not in names):
            raise DataError(f"{path}: its first line lacks the column(s) {missing}; add them")
        for cells in reader:
            where = f"{path}, line {reader.line_num}"
            surplus = cells.pop(None, [])
            if any(map(str.strip, surplus)):
                fault = f"has {len(names) + len(surplus)} cells, the first line {len(names)}"
                fix = "put quotes around cells with commas, write decimals with a point"
                raise DataError(f"{where}: {fault}; {fix}")
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
    """The values of `columns` in a row of `read_table`; DataError if one is not a number."""
    values = []
    for column in columns:
        try:
            value = float(row[column].replace("_", "?"))  # Python reads 3_4 as 34
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
    pictures named as LFW does: "name/name_0001". Raises DataError for a malformed line, a
    duplicate pair, or a wrong number of lines.
    """
    text = unicodedata.normalize("NFC", read_text(path))
    header, *lines = [line.split() for line in text.splitlines() if line.strip()] or [[]]
    if len(header) != 2 or not "".join(header).isdecimal():
        fault = f"its first line is {' '.join(header)!r}"
        raise DataError(f"{path}: {fault}; it must give folds and pairs, like LFW's 10 300")
    folds, each = map(int, header)
    if not lines or len(lines) != 2 * folds * each:
        fault = f"has {len(lines)} pairs, its first line promises {2 * folds * each}"
        raise DataError(f"{path}: {fault}; download it again")
    pairs = {}  # {set of both names: the pair}
    for number, line in enumerate(lines):
        fold, place = divmod(number, 2 * each)
        same = place < each
        words = [*line[:2], line[0], *line[2:]] if same else line  # name i other j
        pair = []
        if len(words) == 4 and (words[1] + words[3]).isdecimal():
            if same == (words[0] == words[2]):
                pair = [f"{name}/{name}_{int(i):04d}" for name, i in (words[:2], words[2:])]
        if len(set(pair)) < 2 or frozenset(pair) in pairs:
            form = "name i j" if same else "name i other j"
            fault = f"{path}: pair {number + 1} ({' '.join(line)})"
            raise DataError(f"{fault} must be {form}, name two pictures and be new; correct it")
        pairs[frozenset(pair)] = (*pair, same, fold)
    return list(pairs.values())


def find_pairs(pairs_txt, names: list[str]):
    """Find the pairs of a file in LFW's format among the `names` "person/picture" of a set.

    Returns (first, second, same, fold) of each pair whose two pictures exist (first and second
    are positions in `names`), and the dropped pairs as text; prints how many are dropped. A fold
    with too many pairs of one kind loses its last ones, so that a constant guess errs on half.

    Raises DataError for what `read_pair_lines` refuses, for a name that differs from a picture's by
    case alone, and unless two folds or more exist and each keeps pairs of both kinds.
    """
    pairs = read_pair_lines(pairs_txt)
    position = {name: i for i, name in enumerate(names)}
    spelled = {name.casefold(): name for name in names}
    kept = {(fold, same): [] for *_, same, fold in pairs}
    dropped = []
    for first, second, same, fold in pairs:
        absent = [name for name in (first, second) if name not in position]
        for name in absent:
            if picture := spelled.get(name.casefold()):
                fault = f"{pairs_txt}: names {name}, the folder has {picture}"
                raise DataError(f"{fault}; write the names alike")
        if absent:
            dropped.append(f"{first} {second}")
        else:
            kept[fold, same].append((position[first], position[second], same, fold))
    message = f"{len(dropped)} of {len(pairs)} pairs are dropped, as the set lacks their picture(s)"
    folds = len(kept) // 2
    surplus = []
    for fold in range(folds):
        of_one, of_two = kept[fold, True], kept[fold, False]
        fewer, more = sorted((of_one, of_two), key=len)
        if not fewer or folds < 2:
            have = f"{len(of_one)} and {len(of_two)} pairs of one person and of two"
            fault = f"{pairs_txt}: fold {fold + 1} of {folds} has {have}"
            where = f"in a set of {len(names)} pictures ({''.join(names[:1])} ...)"
            need = "at least two folds need both: restore the pictures or pairs"
            raise DataError(f"{fault} {where}; {need} ({message})")
        if len(more) - len(fewer) > UNEQUAL * (len(pairs) // folds):
            surplus += more[len(fewer) :]
            del more[len(fewer) :]
    if dropped:
        message += f": {', '.join(dropped[:3])}; {len(surplus)} more, to balance the folds"
        print(f"{pairs_txt}: {message}", file=sys.stderr)
    dropped += [f"{names[first]} {names[second]}" for first, second, *_ in surplus]
    return list(chain.from_iterable(kept.values())), dropped


# ---------------------------------------------------------------- pictures


def open_picture(path) -> Image.Image:
    """The picture in a file as upright RGB, see `decode_picture`; BadPicture names the file."""
    return read_picture(path)[0]


def read_picture(path):
    """As `open_picture`, plus the file's (bytes, CRC-32), which identify it at any path."""
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
    """Decode a picture fully: a truncated one fails here, not during training.

    source: a path or an open binary file. max_pixels: limit on width x height. formats: Pillow's
    names of the formats to try, whatever the suffix. Returns a Pillow picture as `to_rgb` makes it.
    Raises BadPicture, without the file's name.
    """
    try:
        with Image.open(source, formats=formats) as picture:  # reads the size, not yet the pixels
            width, height = picture.size
            if width * height > max_pixels:
                raise ValueError(f"{width} x {height}, more than the {max_pixels:,} pixels allowed")
            return to_rgb(picture)
    except UnidentifiedImageError:  # its text holds an address, another in each run
        reason = "no picture format is known"
    except MemoryError:
        raise
    except Exception as error:  # a damaged or forged file raises one of many types
        reason = str(error).strip() or type(error).__name__
    raise BadPicture(f"cannot be read as a picture ({reason})")


def to_rgb(picture: Image.Image) -> Image.Image:
    """Any Pillow picture as RGB in 8 bits, ready for the networks.

    Turns it upright (EXIF), scales 16 bits to 8, converts its color profile to sRGB, and puts it on
    white if transparent. Raises ValueError for other kinds of gray: black and white are unknown.
    """
    picture.load()
    with suppress(Exception):  # damaged EXIF data: the picture stays as it is stored
        ImageOps.exif_transpose(picture, in_place=True)
    profile = picture.info.get("icc_profile")
    if picture.mode[0] in "IF":  # gray in 16 or 32 bits
        values = np.asarray(picture)  # (H, W)
        tags = getattr(picture, "tag_v2", {})  # TIFF: 258 holds the bits, 262 is 0 if 0 is white
        supported = tags.get(258, (16,)) == (16,) and tags.get(262) != 0
        if picture.mode == "F" or not supported or values.min() < 0 or values.max() > 65535:
            raise ValueError("its gray is not 16-bit; save it with 8 or 16 bits per channel")
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
