"""Folders of pictures that tables describe, read and checked: `datasets.read_*` are made of this.

A faces folder holds person/picture and a table with five landmarks for each (its test half also a
list of verification pairs, as LFW's); an actions folder holds frames, a table of person boxes with
their actions, and one of face boxes. data_scripts/README.md tells how they are made.

Every picture is decoded once when a folder is read, several at a time, so that a damaged one is
known before the training starts. A fault of a table (a column missing, NaN, a box without area)
always raises DataError; a picture that is damaged or has no landmarks is a BadPicture, which
`on_bad="skip"` leaves out, by name. Boxes are xyxy pixels and landmarks x,y pixels of the upright
picture, continuous: pixel i covers [i, i+1), a whole picture is (0, 0, W, H).
"""

import itertools
import math
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import get_worker_info

from ppad import files
from ppad.files import BadPicture, DataError, numbers

POINTS = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")  # left in the picture
POINT_COLUMNS = tuple(f"{point}_{axis}" for point in POINTS for axis in "xy")
BOX_COLUMNS = ("x_min", "y_min", "x_max", "y_max")
FACE_SCALE = 1.6  # Sec. 5.2: face boxes are enlarged 1.6 times, to hold most of the head
ROUNDING = 1.0  # px; ours: tables are rounded, so a true box may leave its picture by this much
GRAY = 128  # ours: padding of a letterboxed frame, about 0 on the networks' [-1, 1] scale
MAX_THREADS = 16  # ours: that decode; more of them wait for the disk or for Python's lock
CHUNK = 128  # ours: pictures decoded before their results are used: 180 MB of 600 x 800 frames
SECONDS_BETWEEN_LINES = 5  # ours: of progress


# ---------------------------------------------------------------- many pictures


def cores() -> int:
    """Threads that decode where no number is given: one a core, 16 at most."""
    return min(MAX_THREADS, os.cpu_count() or 1)


class PictureFiles:
    """N pictures of one size that stay in their files.

    Used like the tensor (N, 3, H, W) uint8 that would hold them: `pictures[indices]` decodes some.
    Raises DataError for one that can no longer be decoded; no other takes its place.

    Args:
        sources: N (path, function that makes (H, W, 3) uint8 of its Pillow picture).
        size: (H, W).
        threads: How many decode at once.
    """

    def __init__(self, sources, size, threads: int):
        self.sources = sources
        self.threads = threads
        self.shape = (len(sources), 3, *size)

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, indices) -> torch.Tensor:
        chosen = torch.arange(len(self))[indices].tolist()
        pictures = torch.empty(len(chosen), *self.shape[1:], dtype=torch.uint8)  # (B, 3, H, W)
        threads = 1 if get_worker_info() else self.threads  # a DataLoader's process is one of many
        with ThreadPoolExecutor(threads) as pool:
            for picture, decoded in zip(pictures, pool.map(self._decode, chosen)):
                picture.copy_(torch.from_numpy(decoded).permute(2, 0, 1))
        return pictures

    def _decode(self, index):
        path, fit = self.sources[index]
        try:
            return fit(files.open_picture(path))
        except BadPicture as error:
            raise DataError(
                f"{error}, which was whole when the run began, and run the same command again"
            ) from error


class _Reader:
    """Reads pictures of a folder in threads, and keeps them or, if they do not fit, their places.

    Args:
        count: The most pictures there will be.
        size: (H, W) of what is kept of each.
        on_bad, memory, workers: As in `read_faces`.
    """

    def __init__(self, folder, count, size, on_bad, memory, workers):
        if on_bad not in ("error", "skip"):
            raise ValueError(f"on_bad is {on_bad!r}: give 'error' or 'skip'.")
        self.folder = folder
        self.count = count
        self.size = size
        self.on_bad = on_bad
        self.threads = workers or cores()
        fits = count * 3 * math.prod(size) <= memory
        self.kept = torch.empty(count, 3, *size, dtype=torch.uint8) if fits else None
        self.names = []
        self.sources = []
        self.skipped = []

    def read(self, look, offered, wanted):
        """Yield (file, found) for each file that can be used, in order.

        look(file) -> a Pillow picture, the function that makes (H, W, 3) of it, and what else was
        found. `wanted(file)` is asked before a file is read and again when its turn comes.
        """
        start = last_print = time.monotonic()
        done = 0
        offered = filter(wanted, offered)
        with ThreadPoolExecutor(self.threads) as pool:
            while chunk := list(itertools.islice(offered, CHUNK)):
                results = [pool.submit(_look_and_fit, look, file) for file in chunk]
                for file, result in zip(chunk, results):
                    if wanted(file) and self._keep(file, result):
                        yield file, result.result()[2]
                done += len(chunk)
                now = time.monotonic()
                if now - last_print > SECONDS_BETWEEN_LINES and done < self.count:
                    last_print = now
                    left = (now - start) / done * (self.count - done)
                    share = f"{done:,} of {self.count:,} pictures read"
                    files.print_progress(f"{self.folder}: {share}, about {left:.0f} s left", True)

    def _keep(self, file, result) -> bool:
        try:
            picture, fit, _ = result.result()
        except BadPicture as error:
            if self.on_bad == "error":
                raise
            self.skipped.append(str(error))
            return False
        if self.kept is not None:
            self.kept[len(self.names)] = torch.from_numpy(picture).permute(2, 0, 1)
        self.names.append(file)
        self.sources.append((str(self.folder / file), fit))
        return True

    def pictures(self):
        """All that was kept, (N, 3, H, W) uint8: a tensor or `PictureFiles`."""
        if self.kept is not None:
            return self.kept[: len(self.names)]
        return PictureFiles(self.sources, self.size, self.threads)


def _look_and_fit(look, file):
    picture, fit, found = look(file)
    return fit(picture), fit, found


# ---------------------------------------------------------------- faces


def read_faces(
    folder,
    landmarks_csv,
    size: int,
    people: int = 0,
    pictures_each: int = 0,
    on_bad: str = "error",
    memory: float = math.inf,
    workers: int = 0,
) -> dict:
    """Read folder/person/picture with the five landmarks that a table has for each.

    Args:
        folder: Its people count in order of name.
        landmarks_csv: A table with `file`, relative to `folder` or to the table's own folder, and x
            and y of the five points. With a face box besides (x_min ... y_max), the square 1.6
            times its longer side is cut out (LFW as it comes); without, the pictures must be
            square crops.
        size: Side of the crops, px.
        people, pictures_each: Read no more than these, 0 = all.
        on_bad: "skip" leaves out, and names in `.skipped`, pictures that are absent, unreadable,
            not square or without usable landmarks; "error" raises DataError at the first. A fault
            of the table itself always raises DataError.
        memory: Bytes that the crops may take; more than that stay in their files.
        workers: Threads that decode, 0 = one a core, 16 at most.

    Returns:
        The fields of a `datasets.FaceSet`.
    """
    folder = Path(folder)
    rows = _landmark_rows(folder, Path(landmarks_csv))
    by_person = {}
    for file in sorted(rows.keys() | _pictures_in(folder)):
        by_person.setdefault(_person(file), []).append(file)
    limit = _Limit(people or math.inf, pictures_each or math.inf)
    counts = sorted((min(len(group), limit.each) for group in by_person.values()), reverse=True)
    reader = _Reader(folder, sum(counts[: people or None]), (size, size), on_bad, memory, workers)
    look = partial(look_at_face, folder, rows, size)
    landmarks = []
    for file, points in reader.read(look, itertools.chain(*by_person.values()), limit):
        limit.count[_person(file)] = limit.count.get(_person(file), 0) + 1
        landmarks.append(points)
    if not landmarks:
        raise DataError(
            f"{folder}: no usable person/picture in it ({len(reader.skipped)} skipped); "
            "check the path"
        )
    number = {person: i for i, person in enumerate(limit.count)}
    return {
        "images": reader.pictures(),
        "landmarks": torch.from_numpy(np.stack(landmarks)),  # (N, 5, 2)
        "identities": torch.tensor([number[_person(file)] for file in reader.names]),
        "names": [Path(file).with_suffix("").as_posix() for file in reader.names],
        "skipped": reader.skipped,
    }


class _Limit:
    """At most `people`, and `each` pictures of one; `count` is {person: pictures so far}."""

    def __init__(self, people, each):
        self.people = people
        self.each = each
        self.count = {}

    def __call__(self, file) -> bool:
        person = _person(file)
        if person in self.count:
            return self.count[person] < self.each
        return len(self.count) < self.people


def _person(file):
    return file.split("/")[0]


def _pictures_in(folder):
    """The names "person/picture" of what is in the folder."""
    people = [entry for entry in os.scandir(folder) if entry.is_dir()] if folder.is_dir() else []
    return {
        f"{person.name}/{entry.name}"
        for person in people
        if not files.is_hidden(person.name)
        for entry in os.scandir(person.path)
        if files.is_picture(entry.name)
    }


def _landmark_rows(folder, table):
    """{file relative to `folder`: its row}."""
    rows = {}
    for row in files.read_table(table, ("file", *POINT_COLUMNS)):
        if row["file"] in rows:
            raise DataError(
                f"{row['where']}: a second row for {row['file']}; delete one of the two"
            )
        rows[row["file"]] = row
    home = table.resolve().parent
    if folder.resolve().is_relative_to(home):  # a table of several folders: keep this one's rows
        prefix = folder.resolve().relative_to(home).as_posix() + "/"
        own = {f.removeprefix(prefix): row for f, row in rows.items() if f.startswith(prefix)}
        rows = own or rows
    return rows


def look_at_face(folder, rows, size, file):
    """The picture of a face, the function that cuts the crop out, the crop's landmarks (5, 2) px.

    Raises BadPicture for a picture or landmarks that cannot be used, DataError for a bad table.
    """
    path = folder / file
    row = rows.get(file)
    if row is None or not any(row[column] for column in POINT_COLUMNS):
        raise BadPicture(f"{path}: the landmark table has no landmarks for it; add its row")
    points = np.array(numbers(row, POINT_COLUMNS), np.float32).reshape(5, 2)
    picture = files.open_picture(path)
    width, height = picture.size
    if (points < 0).any() or (points > (width, height)).any() or (points[0] == points[1]).all():
        raise BadPicture(
            f"{row['where']}: the landmarks do not fit the {width} x {height} picture {path}; "
            "correct the row"
        )
    if all(column in row for column in BOX_COLUMNS):
        x0, y0, x1, y1 = numbers(row, BOX_COLUMNS)
        checked_boxes((x0, y0, x1, y1), width, height, f"{row['where']}: box", math.inf)
        side = FACE_SCALE * max(x1 - x0, y1 - y0)
        corner = ((x0 + x1 - side) / 2, (y0 + y1 - side) / 2)
    elif width == height:
        side = width
        corner = (0.0, 0.0)
    else:
        raise BadPicture(
            f"{path}: is {width} x {height}, not square; "
            "crop the faces, or give face boxes in the table"
        )
    landmarks = (points - np.float32(corner)) * np.float32(size / side)  # (5, 2)
    return picture, partial(cut_square, corner=corner, side=side, size=size), landmarks


def cut_square(picture, corner, side, size) -> np.ndarray:
    """A square of a picture as (size, size, 3) uint8, border pixels repeated beyond the edge.

    corner: its left and top, side: its side, px.
    """
    left, top = corner
    margin = math.ceil(
        max(0, -left, -top, left + side - picture.width, top + side - picture.height)
    )
    if margin:
        padding = ((margin, margin), (margin, margin), (0, 0))
        picture = Image.fromarray(np.pad(np.asarray(picture), padding, mode="edge"))
    box = (left + margin, top + margin, left + margin + side, top + margin + side)
    return np.array(picture.resize((size, size), Image.Resampling.BILINEAR, box=box))


# ---------------------------------------------------------------- action frames


@dataclass
class _Frame:
    """What the two tables say of one picture."""

    split: str
    size: tuple
    actions: list = field(default_factory=list)
    boxes: list = field(default_factory=list)
    faces: list = field(default_factory=lambda: [torch.zeros(0, 4)])


def read_actions(
    folder,
    annotations_csv,
    faces_csv,
    split: str,
    frame_size,
    limit: int = 0,
    on_bad: str = "error",
    memory: float = math.inf,
    workers: int = 0,
) -> dict:
    """Read the frames of one `split`, letterboxed to frame_size (H, W).

    Args:
        annotations_csv: file (relative to `folder`), split, action, width, height and a person box;
            one row a person. Classes are the actions of all splits, in order of name.
        faces_csv: file and a face box; any number of rows a file.
        limit: Read so many frames, evenly over the split, 0 = all.
        on_bad, memory, workers: As in `read_faces`.

    Returns:
        The fields of a `datasets.ActionSet`, without `face_actions`.
    """
    frames = _annotated_frames(annotations_csv, faces_csv)
    classes = sorted({action for frame in frames.values() for action in frame.actions})
    offered = [file for file, frame in frames.items() if frame.split == split]
    if 0 < limit < len(offered):
        offered = [offered[i * len(offered) // limit] for i in range(limit)]
    reader = _Reader(Path(folder), len(offered), frame_size, on_bad, memory, workers)
    found = {"boxes": [], "labels": [], "face_boxes": []}
    look = partial(look_at_frame, reader.folder, frame_size)
    for file, size in reader.read(look, offered, wanted=frames.__contains__):
        frame = frames[file]
        if size != frame.size:
            raise DataError(
                f"{reader.folder / file}: is {size[0]} x {size[1]}, its row in {annotations_csv} "
                f"says {frame.size[0]:g} x {frame.size[1]:g}; use the picture that was annotated"
            )
        scale = np.array(letterbox_size(size, frame_size)) / size
        scale = torch.tensor([*scale, *scale], dtype=torch.float32)  # (4,)
        labels = [classes.index(action) + 1 for action in frame.actions]
        found["boxes"].append(torch.cat(frame.boxes) * scale)  # (n, 4)
        found["labels"].append(torch.tensor(labels))  # (n,)
        found["face_boxes"].append(torch.cat(frame.faces) * scale)  # (k, 4)
    if not reader.names:
        splits = ", ".join(sorted({frame.split for frame in frames.values()}))
        raise DataError(
            f"{folder}: no usable picture of split {split!r} ({len(reader.skipped)} skipped); "
            f"check the path, and the split: the table has {splits}"
        )
    found |= {"names": reader.names, "classes": classes, "skipped": reader.skipped}
    return found | {"frames": reader.pictures()}


def _annotated_frames(annotations_csv, faces_csv) -> dict[str, _Frame]:
    """{file: _Frame} of all splits, in the order of the table."""
    frames = {}
    seen = set()
    columns = ("file", "split", "action", "width", "height", *BOX_COLUMNS)
    for row in files.read_table(annotations_csv, columns):
        where = row["where"]
        width, height, *box = numbers(row, ("width", "height", *BOX_COLUMNS))
        if not row["action"]:
            raise DataError(
                f"{where}: action is empty; name it, or delete the row (background needs none)"
            )
        frame = frames.setdefault(row["file"], _Frame(row["split"], (width, height)))
        if (row["split"], (width, height)) != (frame.split, frame.size):
            raise DataError(
                f"{where}: {row['file']} has another split or size further up; make the rows agree"
            )
        frame.boxes.append(checked_boxes(box, width, height, f"{where}: box"))
        frame.actions.append(row["action"])
        _refuse_twice(row, (row["action"], *box), seen)
    for row in files.read_table(faces_csv, ("file", *BOX_COLUMNS)):
        where = row["where"]
        box = numbers(row, BOX_COLUMNS)
        if row["file"] not in frames:
            raise DataError(
                f"{where}: {row['file']} is not in {annotations_csv}; use two tables of one version"
            )
        frame = frames[row["file"]]
        frame.faces.append(checked_boxes(box, *frame.size, f"{where}: face box", math.inf))
        _refuse_twice(row, tuple(box), seen)
    return frames


def _refuse_twice(row, key, seen):
    if (row["file"], key) in seen:
        raise DataError(f"{row['where']}: a duplicate row for {row['file']}; delete it")
    seen.add((row["file"], key))


def look_at_frame(folder, frame_size, file):
    picture = files.open_picture(folder / file)
    return picture, partial(letterbox, frame_size=frame_size), picture.size


def letterbox(picture, frame_size) -> np.ndarray:
    """Scale a picture to fit (H, W), gray at the right or the bottom: (H, W, 3) uint8."""
    width, height = letterbox_size(picture.size, frame_size)
    frame = np.full((*frame_size, 3), GRAY, np.uint8)
    frame[:height, :width] = picture.resize((width, height), Image.Resampling.BILINEAR)
    return frame


def letterbox_size(size, frame_size) -> tuple[int, int]:
    """(width, height) px that a picture of `size` (width, height) gets in a frame of (H, W)."""
    scale = min(frame_size[1] / size[0], frame_size[0] / size[1])
    width = max(1, min(frame_size[1], round(size[0] * scale)))
    height = max(1, min(frame_size[0], round(size[1] * scale)))
    return width, height


# ---------------------------------------------------------------- boxes


def checked_boxes(boxes, width, height, where, slack=ROUNDING) -> torch.Tensor:
    """Clip boxes to the picture, (n, 4) float32, or refuse those that cannot be right.

    Args:
        boxes: Anything of shape (n, 4) or (4,), px.
        where: What the DataError for NaN, no area, or outside calls them.
        slack: px that a box may leave the picture by. A face detector's boxes overhang the border
            by nature: with math.inf, only boxes wholly outside are refused.
    """
    boxes = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)  # (n, 4)
    for box in boxes.tolist():
        x0, y0, x1, y1 = box
        overhang = max(-x0, -y0, x1 - width, y1 - height)
        if not all(map(math.isfinite, box)):
            fault = "holds NaN or infinity; correct or delete it"
        elif x1 <= x0 or y1 <= y0:
            fault = "has no area; x_min must be below x_max and y_min below y_max"
        elif overhang > slack or x0 >= width or y0 >= height or x1 <= 0 or y1 <= 0:
            fault = f"lies outside its {width:g} x {height:g} picture; give it in its pixels"
        else:
            continue
        raise DataError(f"{where} ({', '.join(f'{value:g}' for value in box)}) {fault}")
    limit = torch.tensor([width, height, width, height], dtype=torch.float32)
    return torch.minimum(boxes.clamp(min=0), limit)
