"""Reads and checks folders of pictures and the tables that describe them, for `datasets.read_*`.

A faces folder holds person/picture and a table with five landmarks for each; an actions folder
holds frames, a table of person boxes with their actions, and one of face boxes
(data_scripts/README.md says how to make them). Every picture is decoded once when a folder is
read, so that damaged ones are found before training starts. A fault of a table (a missing column,
NaN, a box without area) always raises DataError. A picture that is damaged or has no landmarks
raises BadPicture; a reader can skip it and list it.

Boxes are xyxy pixels and landmarks x,y pixels of the upright picture, continuous: pixel i covers
[i, i+1), a whole picture is (0, 0, W, H).
"""

import math
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import get_worker_info
from torchvision.ops import clip_boxes_to_image

from ppad import files
from ppad.crop_sampler import FACE_SCALE
from ppad.files import BadPicture, DataError, numbers

POINTS = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")  # left in the picture
POINT_COLUMNS = tuple(f"{point}_{axis}" for point in POINTS for axis in "xy")
BOX_COLUMNS = ("x_min", "y_min", "x_max", "y_max")
ROUNDING = 1.0  # px; ours: tables are rounded, so a true box may leave its picture by this much
GRAY = 128  # ours: padding of a letterboxed frame, about 0 on the networks' [-1, 1] scale
MAX_THREADS = 16  # ours: to decode; more would wait for the disk or for Python's lock
CHUNK = 128  # ours: pictures decoded at a time: 180 MB of 600 x 800 frames
SECONDS_BETWEEN_LINES = 5  # ours: of progress output


# ---------------------------------------------------------------- many pictures


def cores() -> int:
    """Default number of decoding threads: one per core, at most 16."""
    return min(MAX_THREADS, os.cpu_count() or 1)


@dataclass
class PictureFiles:
    """N pictures that stay in their files, indexed like a uint8 tensor (N, 3, H, W).

    `pictures[indices]` decodes these pictures. It raises DataError if one has changed or can no
    longer be decoded.
    """

    sources: list  # N x (path, square for `cut_square` or None for `letterbox`, file's checksum)
    size: tuple  # (H, W)
    threads: int  # to decode with

    @property
    def shape(self) -> tuple:
        return (len(self.sources), 3, *self.size)

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, indices) -> torch.Tensor:
        chosen = torch.arange(len(self))[indices].tolist()
        pictures = torch.empty(len(chosen), *self.shape[1:], dtype=torch.uint8)  # (B, 3, H, W)
        threads = 1 if get_worker_info() else self.threads  # one per DataLoader worker
        with ThreadPoolExecutor(threads) as pool:
            for picture, decoded in zip(pictures, pool.map(self._decode, chosen)):
                picture.copy_(torch.from_numpy(decoded).permute(2, 0, 1))
        return pictures

    def _decode(self, index):
        path, square, checksum = self.sources[index]
        try:
            picture, now = files.read_picture(path)
            if now != checksum:
                raise BadPicture(f"{path}: has changed since it was first read; restore the file")
        except BadPicture as error:
            raise DataError(f"{error}, and run the same command again") from error
        if square:
            return cut_square(picture, *square, self.size[1])
        return letterbox(picture, self.size)[0]


def read_pictures(
    title, offered, look, size, on_bad: str = "error", memory: float = math.inf, workers: int = 0
):
    """Read pictures once, in order.

    Args:
        title: What is read, for messages.
        offered: Names of the pictures.
        look: Function from a name to the picture (H, W, 3) uint8, its source for PictureFiles, and
            extra data.
        size: (H, W).
        on_bad: "error" raises DataError for the first picture that is absent, unreadable, or a
            face not square or without usable landmarks; "skip" only lists it in `skipped`.
        memory: Limit for all resized pictures, bytes; above it they stay in their files.
        workers: Decoding threads, 0 = one per core, at most 16.

    Returns N pictures (N, 3, H, W) uint8, the extra data of each, and the fields `names`,
    `skipped` and `checksums` of a set. Raises DataError if no picture is left.
    """
    threads = workers or cores()
    fits = len(offered) * 3 * math.prod(size) <= memory
    kept = torch.empty(len(offered) if fits else 0, 3, *size, dtype=torch.uint8)
    names = []
    sources = []
    extras = []
    skipped = []
    last_print = time.monotonic()
    with ThreadPoolExecutor(threads) as pool:
        for first in range(0, len(offered), CHUNK):
            if time.monotonic() - last_print > SECONDS_BETWEEN_LINES:
                last_print = time.monotonic()
                files.print_progress(f"{title}: {first:,} of {len(offered):,} pictures read", True)
            chunk = [(name, pool.submit(look, name)) for name in offered[first : first + CHUNK]]
            for name, result in chunk:
                try:
                    picture, source, extra = result.result()
                except BadPicture as error:
                    if on_bad != "skip":
                        raise
                    skipped.append(str(error))
                    continue
                if fits:
                    kept[len(extras)] = torch.from_numpy(picture).permute(2, 0, 1)
                names.append(name)
                sources.append(source)
                extras.append(extra)
    if not extras:
        raise DataError(f"{title}: no usable picture: {(skipped or ['check the path'])[0]}")
    pictures = kept[: len(extras)] if fits else PictureFiles(sources, size, threads)
    checksums = [checksum for _, _, checksum in sources]
    return pictures, extras, {"names": names, "skipped": skipped, "checksums": checksums}


# ---------------------------------------------------------------- faces


def grouped(keys) -> dict:
    """{key: list of its positions in `keys`}."""
    groups = {}
    for position, key in enumerate(keys):
        groups.setdefault(key, []).append(position)
    return groups


def person_of(name: str) -> str:
    """The person of a picture "person/picture"."""
    return name.split("/")[0]


def pictures_in(folder) -> list[str]:
    """The plain names "person/picture" of all pictures in a folder of faces.

    Raises DataError for two that are equal as plain names without suffix.
    """
    names = {}  # {name without suffix: name}
    for path in folder.glob("*/*"):
        if files.is_picture(path) and not files.is_hidden(path.parent):
            name = files.plain_name(f"{path.parent.name}/{path.name}")
            stem = name.rpartition(".")[0]
            if stem in names:
                raise DataError(f"{path} and {names[stem]} have one name; rename or delete one")
            names[stem] = name
    return list(names.values())


def offered_faces(folder, rows, people: int, pictures_each: int) -> list[str]:
    """Sorted names of the pictures in a folder of faces or in its table's rows.

    people, pictures_each: take only the first ones; 0 = all.
    """
    names = sorted(rows.keys() | pictures_in(folder))
    others = (path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    others = filter(files.is_picture, others)
    misplaced = [name for name in others if name.count("/") != 1 and "/." not in f"/{name}"]
    files.say_unused(folder, "pictures not in person/picture", sorted(misplaced))
    groups = list(grouped(map(person_of, names)).values())[: people or None]
    return [names[i] for group in groups for i in group[: pictures_each or None]]


def spelling(person: str) -> str:
    """A person's name in lower case, with "_" for each gap: " Ann  Lee" is "ann_lee"."""
    return "_".join(person.replace("_", " ").casefold().split())


def check_people(root) -> None:
    """Raise DataError if a person is in both root/train and root/test."""
    train, test = (
        {spelling(person_of(name)): person_of(name) for name in pictures_in(Path(root, split))}
        for split in ("train", "test")
    )
    if both := sorted(train.keys() & test.keys()):
        pair = f"train/{train[both[0]]} and test/{test[both[0]]}"
        fault = f"{len(both)} of the people are in train and in test, such as {pair}"
        raise DataError(f"{root}: {fault}; delete one")


def landmark_rows(folder, table) -> dict[str, dict]:
    """{file relative to `folder`: its row}. Raises DataError."""
    rows = {}
    for row in files.read_table(table, ("file", *POINT_COLUMNS)):
        file = row["file"]
        if file in rows:
            raise DataError(f"{row['where']}: a second row for {file}; delete one of the two")
        rows[file] = row
    for absolute in (os.path.abspath, os.path.realpath):  # first as named: links may lead elsewhere
        place = Path(absolute(folder))
        home = Path(absolute(table)).parent
        if place.is_relative_to(home):  # a table of several folders: keep this one's rows
            prefix = files.plain_name(place.relative_to(home).as_posix()) + "/"
            own = {f.removeprefix(prefix): row for f, row in rows.items() if f.startswith(prefix)}
            rows = own or rows
    check_convention(table, rows.values())
    return rows


def check_convention(table, rows) -> None:
    """Raise DataError if boxes or landmarks do not follow our convention.

    Finds fractions of the picture instead of pixels, the person's own left, and y from the bottom.
    """
    for columns in (BOX_COLUMNS, POINT_COLUMNS):
        values = [numbers(row, columns) for row in rows if row.get(columns[0])]
        if values and np.median(values) <= 1:
            fault = f"{columns[0]} to {columns[-1]} are mostly not above 1"
            raise DataError(f"{table}: {fault}; give pixels of the picture, not fractions")
    if values:
        x, y = np.reshape(values, (-1, 5, 2)).transpose(2, 1, 0)  # (5, N)
        for left, right in ((0, 1), (3, 4)):
            if np.median(x[left] - x[right]) > 0:
                fault = f"{POINTS[left]} lies right of {POINTS[right]} in most faces"
                raise DataError(f"{table}: {fault}; swap them: left means left in the picture")
        if np.median(y[:2].mean(0) - y[3:].mean(0)) > 0:
            fault = "the eyes lie below the mouth in most faces"
            raise DataError(f"{table}: {fault}; y must be counted from the top")


def look_at_face(folder, rows, size, face_scale, file):
    """The crop (size, size, 3), its source for PictureFiles, and its landmarks (5, 2) px.

    Raises BadPicture if the picture or its landmarks cannot be used.
    """
    path = files.find_picture(folder, file)
    row = rows.get(file)
    if row is None or not any(row[column] for column in POINT_COLUMNS):
        raise BadPicture(f"{path}: the landmark table has no landmarks for it; add its row")
    points = np.array(numbers(row, POINT_COLUMNS), np.float32).reshape(5, 2)
    picture, checksum = files.read_picture(path)
    width, height = picture.size
    if (points < 0).any() or (points > (width, height)).any() or (points[0] == points[1]).all():
        fault = f"the landmarks do not fit the {width} x {height} picture {path}"
        raise BadPicture(f"{row['where']}: {fault}; correct the row")
    square = (0.0, 0.0, width)  # left, top, side
    if all(column in row for column in BOX_COLUMNS):
        x0, y0, x1, y1 = box = numbers(row, BOX_COLUMNS)
        checked_boxes(box, width, height, f"{row['where']}: box", math.inf)
        side = face_scale * max(x1 - x0, y1 - y0)
        square = ((x0 + x1 - side) / 2, (y0 + y1 - side) / 2, side)
    elif width != height or face_scale != FACE_SCALE:
        fault = f"is {width} x {height} and face_scale is {face_scale:g}"
        fix = f"add face boxes to the table, or give square crops and face_scale {FACE_SCALE}"
        raise BadPicture(f"{path}: {fault}; {fix}")
    landmarks = (points - np.float32(square[:2])) * np.float32(size / square[2])  # (5, 2)
    return cut_square(picture, *square, size), (str(path), square, checksum), landmarks


def cut_square(picture, left, top, side, size) -> np.ndarray:
    """A square of a picture as (size, size, 3) uint8; border pixels repeat beyond the edge.

    left, top, side: the square, px.
    """
    overhang = max(-left, -top, left + side - picture.width, top + side - picture.height)
    if overhang > 0:
        margin = math.ceil(overhang)
        padding = ((margin, margin), (margin, margin), (0, 0))
        picture = Image.fromarray(np.pad(np.asarray(picture), padding, mode="edge"))
        left += margin
        top += margin
    box = (left, top, left + side, top + side)
    return np.array(picture.resize((size, size), Image.Resampling.BILINEAR, box=box))


# ---------------------------------------------------------------- action frames


@dataclass
class _Frame:
    """The two tables' data for one picture."""

    split: str
    size: tuple
    actions: list = field(default_factory=list)
    boxes: list = field(default_factory=list)
    faces: list = field(default_factory=lambda: [torch.zeros(0, 4)])


def annotated_frames(annotations_csv, faces_csv) -> dict[str, _Frame]:
    """{file: _Frame} of all splits, in the order of the table. Raises DataError."""
    frames = {}
    columns = ("file", "split", "action", "width", "height", *BOX_COLUMNS)
    people = files.read_table(annotations_csv, columns)
    faces = files.read_table(faces_csv, ("file", *BOX_COLUMNS), may_be_empty=True)
    check_convention(annotations_csv, people)
    check_convention(faces_csv, faces)
    for row in people:
        file = row["file"]
        size = tuple(numbers(row, ("width", "height")))
        frame = frames.setdefault(file, _Frame(row["split"], size))
        if not row["action"]:
            raise DataError(f"{row['where']}: action is empty; name it, or delete the row")
        if (row["split"], size) != (frame.split, frame.size):
            raise DataError(f"{row['where']}: {file} has another split or size above; fix one")
        same = [box for box, name in zip(frame.boxes, frame.actions) if name == row["action"]]
        frame.boxes.append(_new_box(row, "box", size, ROUNDING, same))
        frame.actions.append(row["action"])
    for row in faces:
        if row["file"] not in frames:
            fault = f"{row['file']} is not in {annotations_csv}"
            raise DataError(f"{row['where']}: {fault}; use two tables of the same version")
        frame = frames[row["file"]]
        frame.faces.append(_new_box(row, "face box", frame.size, math.inf, frame.faces))
    action_names(annotations_csv, frames, [f for f in frames.values() if f.split == "train"])
    return frames


def _new_box(row, kind, size, slack, others):
    """The box (1, 4) of a row. DataError for an invalid box, or one that is in `others`."""
    box = checked_boxes(numbers(row, BOX_COLUMNS), *size, f"{row['where']}: {kind}", slack)
    if any(torch.equal(box, other) for other in others):  # it would count twice
        raise DataError(f"{row['where']}: a duplicate row for {row['file']}; delete it")
    return box


def offered_frames(frames, split: str, limit: int, table) -> list[str]:
    """The names of one split's frames; limit: take this many, evenly spaced; 0 = all."""
    offered = [file for file, frame in frames.items() if frame.split == split]
    if not offered:
        splits = ", ".join(sorted({frame.split for frame in frames.values()}))
        raise DataError(f"{table}: no frame has split {split!r}, only {splits}; add some")
    if split == "test":  # print it only once
        others = [frame.split for frame in frames.values() if frame.split not in ("train", "test")]
        files.say_unused(table, "frames of other splits", others)
    if 0 < limit < len(offered):
        offered = [offered[i * len(offered) // limit] for i in range(limit)]
    return offered


def action_names(table, frames: dict[str, _Frame], train) -> list[str]:
    """The actions of all frames, sorted by name.

    Raises DataError if two differ only in case or punctuation, or if no `train` frame has one.
    """
    classes = sorted({action for frame in frames.values() for action in frame.actions})
    spelled = {}
    for action in classes:
        letters = "".join(filter(str.isalnum, action.casefold())) or action
        if spelled.setdefault(letters, action) != action:
            fault = f"has the actions {spelled[letters]!r} and {action!r}"
            fix = "give them one name, or names that differ in letters"
            raise DataError(f"{table}: {fault}; {fix}")
    learned = {action for frame in train for action in frame.actions}
    if train and (unknown := sorted(set(classes) - learned)):
        fault = f"no train frame shows the action {unknown[0]!r}"
        fix = "add some, delete its rows, or have the main job read more (--train_frames)"
        raise DataError(f"{table}: {fault}; {fix}")
    return classes


def look_at_frame(folder, frames, table, frame_size, file):
    """The frame (H, W, 3), its source, and the scale factors (4,) of its boxes.

    Raises DataError if the picture's size is not that in the table.
    """
    path = files.find_picture(folder, file)
    picture, checksum = files.read_picture(path)
    if picture.size != frames[file].size:
        sizes = "{} x {}, but its row in {} says {:g} x {:g}"
        sizes = sizes.format(*picture.size, table, *frames[file].size)
        raise DataError(f"{path}: is {sizes}; use the picture of that size")
    frame, inner = letterbox(picture, frame_size)
    scale = torch.tensor(np.divide(inner, picture.size), dtype=torch.float32).repeat(2)  # (4,)
    return frame, (str(path), None, checksum), scale


def letterbox(picture, frame_size):
    """Scale a picture to fit (H, W), padded with gray at the right or bottom.

    Returns the frame (H, W, 3) uint8 and the (width, height) of the picture in it, px.
    """
    height, width = frame_size
    scale = min(width / picture.width, height / picture.height)
    width = max(1, min(width, round(picture.width * scale)))
    height = max(1, min(height, round(picture.height * scale)))
    frame = np.full((*frame_size, 3), GRAY, np.uint8)
    frame[:height, :width] = picture.resize((width, height), Image.Resampling.BILINEAR)
    return frame, (width, height)


# ---------------------------------------------------------------- boxes


def checked_boxes(boxes, width, height, where, slack=ROUNDING) -> torch.Tensor:
    """Clip boxes to the picture, (n, 4) float32, and raise DataError for invalid ones.

    An invalid box holds NaN or infinity, has no area, or lies outside the picture. boxes: (n, 4) or
    (4,), px. where: names them in the message. slack: px by which a box may leave the picture. With
    math.inf, for face detectors, no box is clipped; a box is then invalid if it lies fully outside
    or leaves the picture by more than the picture's longer side.
    """
    boxes = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)  # (n, 4)
    limit = min(slack, max(width, height))
    for x0, y0, x1, y1 in boxes.tolist():
        overhang = max(-x0, -y0, x1 - width, y1 - height)
        if not math.isfinite(x0 + y0 + x1 + y1):
            fault = "holds NaN or infinity; correct or delete it"
        elif x1 <= x0 or y1 <= y0:
            fault = "has no area; x_min must be below x_max and y_min below y_max"
        elif overhang > limit or x0 >= width or y0 >= height or x1 <= 0 or y1 <= 0:
            fault = f"lies outside its {width:g} x {height:g} picture; give pixels of the picture"
        else:
            continue
        raise DataError(f"{where} ({x0:g}, {y0:g}, {x1:g}, {y1:g}) {fault}")
    return boxes if slack == math.inf else clip_boxes_to_image(boxes, (height, width))
