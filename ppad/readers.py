"""One table, one picture, one box at a time, read and checked: what the folder readers of `datasets` are made of.

Two kinds of fault are told apart. A wrong table (a column missing, NaN, a box without area) is a `DataError` at once:
it says that something went wrong when the data were made. A single picture that is truncated or has no landmarks is a
`BadPicture`: in a crawled training set some always are, and the caller may leave such a picture out, by name.

Every picture is decoded once when a set is read, several at a time (`read_many`), so a broken one is known before the
training starts. What is too large to be kept is decoded again whenever it is wanted (`Pictures`).

Boxes are xyxy pixels and landmarks x,y pixels, continuous: pixel i covers [i, i+1), a whole picture is (0, 0, W, H).
"""

import csv
import itertools
import math
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image

POINTS = (
    "left_eye",
    "right_eye",
    "nose",
    "left_mouth",
    "right_mouth",
)  # order of the 5 landmarks, image-left first
POINT_COLUMNS = tuple(f"{point}_{axis}" for point in POINTS for axis in "xy")
BOX_COLUMNS = ("x_min", "y_min", "x_max", "y_max")
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
FORMATS = (
    "JPEG",
    "PNG",
    "WEBP",
    "BMP",
    "GIF",
)  # whatever the suffix says; of all that Pillow knows, some start programs
FACE_SCALE = (
    1.6  # paper section 5.2: face boxes are enlarged 1.6 times, so that most of the head is inside
)
ROUNDING = 1.0  # px; ours: tables are rounded, so a true box may leave its picture by this much
MOST_WORKERS = 16  # ours: threads that decode; more of them wait for the disk or for Python's lock
CHUNK = 128  # ours: pictures handed to the threads at once, so that results do not pile up: 180 MB of 600 x 800 frames
SECONDS_BETWEEN_LINES = 5  # ours: progress a person can follow
GREY = 128  # ours: the padding of a letterboxed frame, about 0 on the networks' [-1, 1] scale


class DataError(ValueError):
    """Data that cannot be used as it is; the message names the file or row and says what to do."""


class BadPicture(DataError):
    """One picture that cannot be used; a reader may leave it out and go on."""


def read_table(path, columns):
    """A comma or tab separated table with a header as a list of dicts of text, each with `where` ("file, line n").

    Rows shorter than the header hold None at the end. Raises DataError for an absent file, an absent column, no rows.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: there is no such table; check the path")
    try:
        with open(
            path, newline="", encoding="utf-8-sig"
        ) as file:  # -sig: spreadsheets put a byte order mark first
            delimiter = "\t" if "\t" in file.readline() else ","
            file.seek(0)
            reader = csv.DictReader(file, delimiter=delimiter)
            rows = [{**row, "where": f"{path}, line {reader.line_num}"} for row in reader]
    except (UnicodeDecodeError, csv.Error) as problem:
        raise DataError(
            f"{path}: cannot be read as a table ({problem}); save it as CSV in UTF-8"
        ) from problem
    missing = [column for column in columns if column not in (reader.fieldnames or ())]
    if missing:
        raise DataError(
            f"{path}: its first line lacks the column(s) {', '.join(missing)}; add them or use another table"
        )
    if nameless := [row["where"] for row in rows if "file" in columns and not row["file"]]:
        raise DataError(f"{nameless[0]}: file is empty; name the picture, or delete the row")
    if not rows:
        raise DataError(f"{path}: there is no row below the header; make or download it again")
    return rows


def numbers(row, columns):
    """The row's values of `columns` as finite floats; DataError names the row and the column that is none."""
    values = []
    for column in columns:
        try:
            value = float(row[column])
        except (TypeError, ValueError):  # None where the row is too short
            value = math.nan
        if not math.isfinite(value):
            raise DataError(
                f"{row['where']}: {column} is {row[column]!r}, not a finite number; correct or delete the row"
            )
        values.append(value)
    return values


def read_pair_lines(path):
    """A verification list in LFW's format: the first line holds the number of folds and N; a fold is N lines `name i j`
    (pictures i and j of one person), then N lines `name i other j`.

    Returns the number of pairs a fold (2 N) and the pairs, each ((name, i), (name, j)).
    Raises DataError for a line of another form, a pair that comes twice, or another number of lines than promised.
    """
    lines = [
        line.split() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()
    ]
    header, lines = (lines or [[]])[0], lines[1:]
    if len(header) != 2 or not all(word.isdigit() for word in header):
        raise DataError(
            f"{path}: its first line is {' '.join(header)!r}; it must hold folds and pairs, as LFW's 10 300"
        )
    folds, each = map(int, header)
    if len(lines) != 2 * folds * each:
        raise DataError(
            f"{path}: has {len(lines)} pairs, its first line promises {2 * folds * each}; download it again"
        )
    pairs, seen = [], set()
    for number, line in enumerate(lines):
        at = f"{path}, pair {number + 1} ({' '.join(line)})"
        words = (
            3 if number % (2 * each) < each else 4
        )  # in each fold the N of one person come first
        if len(line) != words or not (line[1] + line[-1]).isdigit():
            raise DataError(
                f"{at}: must be {'name i j' if words == 3 else 'name i other j'}; correct the line"
            )
        pair = (line[0], int(line[1])), (line[0] if words == 3 else line[2], int(line[-1]))
        if (words == 4 and line[0] == line[2]) or pair[0] == pair[1] or frozenset(pair) in seen:
            raise DataError(
                f"{at}: comes twice, or its two ends are not different; correct or delete the line"
            )
        seen.add(frozenset(pair))
        pairs.append(pair)
    return 2 * each, pairs


def checked_boxes(boxes, width, height, where, slack=ROUNDING):
    """Clip boxes to the picture, or refuse those that cannot be right.

    boxes: anything of shape (n, 4) or (4,), px; slack: px a box may leave the picture by before it counts as wrong.
    A face detector's boxes overhang the border by nature: give them math.inf, and only boxes wholly outside are refused.
    Returns (n, 4) float32. Raises DataError for NaN, no area, or outside.
    """
    boxes = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)  # (n, 4)
    for box in boxes.tolist():
        x0, y0, x1, y1 = box
        shown = ", ".join(f"{value:g}" for value in box)
        if not all(map(math.isfinite, box)):
            raise DataError(f"{where} ({shown}) holds NaN or infinity; correct or delete it")
        if x1 <= x0 or y1 <= y0:
            raise DataError(
                f"{where} ({shown}) has no area; x_min must be below x_max and y_min below y_max"
            )
        overhang = max(-x0, -y0, x1 - width, y1 - height)
        if overhang > slack or x0 >= width or y0 >= height or x1 <= 0 or y1 <= 0:
            raise DataError(
                f"{where} ({shown}) lies outside its {width:g} x {height:g} picture; "
                "give it in pixels of that picture"
            )
    limit = torch.tensor([width, height, width, height], dtype=torch.float32)
    return torch.minimum(boxes.clamp(min=0), limit)


def open_picture(path):
    """A picture, decoded to its last pixel, as RGB; BadPicture if it is absent, truncated or no picture."""
    if not path.is_file():
        raise BadPicture(f"{path}: there is no such picture; restore it or delete its row")
    try:
        with Image.open(path, formats=FORMATS) as picture:
            return picture.convert(
                "RGB"
            )  # decodes, so a truncated file fails here and not in the middle of training
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as problem:
        raise BadPicture(
            f"{path}: cannot be read as a picture ({problem}); replace the file"
        ) from problem


def read_face(path, row, boxed, size):
    """One face crop: the picture as (size, size, 3) uint8, its landmarks (5, 2) float32 in px of it, and the window
    (left, top, side) px of the file that `cut_face` takes it from.

    row: the picture's row of the landmark table, or None; boxed: whether the row also has a face box. Then the window is
    the square 1.6 times the box's longer side, about the box's centre. Without a box the picture must be such a crop
    already. Raises BadPicture for a picture or landmarks that cannot be used, DataError for a fault of the table.
    """
    if row is None or not any(row[column] for column in POINT_COLUMNS):
        raise BadPicture(f"{path}: the landmark table has no landmarks for it; add its row")
    points = np.array(numbers(row, POINT_COLUMNS), np.float32).reshape(5, 2)
    picture = open_picture(path)
    width, height = picture.size
    if (points < 0).any() or (points > (width, height)).any() or (points[0] == points[1]).all():
        raise BadPicture(
            f"{row['where']}: the landmarks do not fit the {width} x {height} picture {path}; correct the row"
        )
    if boxed:
        x0, y0, x1, y1 = numbers(row, BOX_COLUMNS)
        checked_boxes((x0, y0, x1, y1), width, height, f"{row['where']}: box", math.inf)
        side = FACE_SCALE * max(x1 - x0, y1 - y0)
        left, top = (x0 + x1 - side) / 2, (y0 + y1 - side) / 2
    elif width == height:
        side, left, top = width, 0.0, 0.0
    else:
        raise BadPicture(
            f"{path}: is {width} x {height}, not square; crop the faces, or give face boxes in the table"
        )
    landmarks = (points - np.float32([left, top])) * np.float32(size / side)  # (5, 2)
    return cut_face(picture, (left, top, side), size), landmarks, (left, top, side)


def cut_face(picture, window, size):
    """The square window (left, top, side) px of a picture as (size, size, 3) uint8, the border pixels repeated where it
    reaches over the edge."""
    (left, top, side), (width, height) = window, picture.size
    margin = math.ceil(max(0, -left, -top, left + side - width, top + side - height))
    if margin:
        picture = Image.fromarray(
            np.pad(np.asarray(picture), ((margin,) * 2, (margin,) * 2, (0, 0)), mode="edge")
        )
    window = (left + margin, top + margin, left + margin + side, top + margin + side)
    return np.array(
        picture.resize((size, size), Image.Resampling.BILINEAR, box=window)
    )  # averages when it shrinks


def letterbox(picture, frame_size):
    """Fit a picture into (H, W): scaled as one, then grey at the right or the bottom.

    Returns the frame (H, W, 3) uint8 and the factors (4,) float32 that take xyxy boxes of the picture to the frame.
    """
    height, width = frame_size
    scale = min(width / picture.width, height / picture.height)
    size = (
        max(1, min(width, round(picture.width * scale))),
        max(1, min(height, round(picture.height * scale))),
    )
    frame = np.full((height, width, 3), GREY, np.uint8)
    frame[: size[1], : size[0]] = np.asarray(picture.resize(size, Image.Resampling.BILINEAR))
    factors = (
        size[0] / picture.width,
        size[1] / picture.height,
    )  # of the rounded size, so boxes stay exact
    return frame, torch.tensor(factors * 2, dtype=torch.float32)


# ---------------------------------------------------------------- many pictures


def cores() -> int:
    """Threads that decode unless told otherwise: one a core, 16 at most."""
    return min(MOST_WORKERS, os.cpu_count() or 1)


def read_many(work, items, total, workers, title):
    """`work(item)` of every item, in order, `workers` at a time (PIL lets go of Python's lock while it decodes).

    items may be a generator: each is asked for after the results of the CHUNK before it have been used. A reading of many
    seconds says on stderr how far it is; total: how many items there will be, at most; title: what they are.
    """
    began = told = time.monotonic()
    items, done = iter(items), 0
    with ThreadPoolExecutor(workers or cores()) as pool:
        while chunk := list(itertools.islice(items, CHUNK)):
            yield from pool.map(work, chunk)
            done, now = done + len(chunk), time.monotonic()
            if now - told > SECONDS_BETWEEN_LINES and done < total:
                told, left = now, (now - began) / done * (total - done)
                print(
                    f"{title}: {done:,} of {total:,} pictures read, about {left:.0f} s left",
                    file=sys.stderr,
                    flush=True,
                )


class Pictures:
    """N pictures of one size that stay in their files. `pictures[indices]` decodes those, as (B, 3, H, W) uint8, and is
    used like the tensor (N, 3, H, W) that would hold all of them.

    sources: N (path, what `shape_it` needs to know of it); shape_it(PIL picture, known) -> (H, W, 3) uint8; size (H, W);
    workers: threads that decode, 0 = `cores()`. Indexing raises DataError, which names it, for a picture that cannot be
    decoded: a batch is never filled up with another one.
    """

    def __init__(self, sources, shape_it, size, workers=0):
        self.sources, self.shape_it, self.workers = sources, shape_it, workers or cores()
        self.shape = (len(sources), 3, *size)

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, indices):
        chosen = torch.arange(len(self))[indices].tolist()
        with ThreadPoolExecutor(
            min(self.workers, max(1, len(chosen)))
        ) as pool:  # made anew: a forked job has no threads
            pictures = list(pool.map(self._one, chosen))
        stacked = (
            torch.from_numpy(np.stack(pictures))
            if pictures
            else torch.empty(0, *self.shape[2:], 3, dtype=torch.uint8)
        )
        return stacked.permute(0, 3, 1, 2).contiguous()  # (B, H, W, 3) -> (B, 3, H, W)

    def _one(self, index):
        path, known = self.sources[index]
        try:
            return self.shape_it(open_picture(Path(path)), known)
        except BadPicture as problem:
            raise DataError(
                f"{problem}, which was whole when the run began, and run the same command again"
            ) from problem
