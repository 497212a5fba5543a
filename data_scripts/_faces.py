"""Where the prepare_* scripts get faces from: a table, or `ppad.ssh:FaceFinder`.

The finder's rules: the paper's (SSH confirmed by MTCNN), MTCNN alone, and others.
"""

import hashlib
import math
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch

# a script's sys.path lacks the project's root
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ppad import optim
from ppad.crop_sampler import FACE_SCALE
from ppad.files import BadPicture, DataError, numbers, plain_name, read_table
from ppad.folders import BOX_COLUMNS, POINT_COLUMNS, check_convention, checked_boxes
from ppad.mtcnn import MTCNN
from ppad.ssh import SSH, FaceFinder

FACE_SCORE = 0.8  # paper Sec. 4: SSH's detections above 0.8 are kept; ours: for all rules


def check_device(name):
    """DataError unless torch can use this device."""
    optim.check_device(name)
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DataError(f"device is '{name}', but torch sees no GPU here: use --device cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DataError(
            f"device is '{name}', but torch sees {torch.cuda.device_count()} GPU(s) here: "
            "use --device cuda"
        )


class Faces:
    """Faces of pictures, from a table or the face finder. The journal records `name`."""

    def __init__(self, args):
        check_device(args.device)
        self.rows = None
        if args.landmarks:
            columns = BOX_COLUMNS if hasattr(args, "rule") else POINT_COLUMNS
            self.table = args.landmarks
            self.rows = {}
            rows = read_table(args.landmarks, ("file", *columns))
            check_convention(args.landmarks, rows)
            for row in rows:
                self.rows.setdefault(row["file"], []).append(row)
            self.name = f"table {hashlib.sha256(args.landmarks.read_bytes()).hexdigest()[:16]}"
            return
        self.name = getattr(args, "rule", "mtcnn")
        try:
            mtcnn = None if self.name == "ssh" else MTCNN.load().to(args.device)
            ssh = None if self.name == "mtcnn" else SSH.load().to(args.device)
            self.finder = FaceFinder(mtcnn, ssh, rule=self.name)
        except (ValueError, RuntimeError) as error:  # no weights, or no such device
            raise DataError(
                f"faces cannot be found: {error}. Or give a table of faces with --landmarks"
            ) from error

    def check_table(self, names):
        """DataError if no row of the table matches a picture; prints how many rows match none.

        names: the names that a table may use for the pictures of SOURCE.
        """
        names = list(names)
        if self.rows is None or not names:
            return
        plain = set(map(plain_name, names))
        unmatched = [name for name in self.rows if name not in plain]
        count = sum(len(self.rows[name]) for name in unmatched)
        if len(unmatched) == len(self.rows):
            raise DataError(
                f"{self.table}: none of its {count:,} rows is of a picture of SOURCE: its first "
                f"file is {unmatched[0]!r}, the first picture {names[0]!r}; write the names alike"
            )
        if unmatched:
            print(f"{self.table}: {count:,} rows match no picture, such as {unmatched[0]}")

    def __call__(self, names, pictures):
        """For each picture a list of (box, points or None).

        names: n lists of the names that a table may use. pictures: n Pillow pictures.
        """
        if self.rows is None:
            return self._find(pictures)
        faces = []
        for spellings, picture in zip(names, pictures):
            plain = map(plain_name, spellings)
            rows = next((self.rows[name] for name in plain if name in self.rows), [])
            faces.append([face_of_row(row, picture) for row in rows])
        return faces

    def _find(self, pictures):
        frames = [torch.tensor(np.asarray(picture)) for picture in pictures]  # (H, W, 3) uint8
        faces = []
        for result, picture in zip(self.finder.find(frames), pictures):
            boxes = result["boxes"].tolist()
            scores = result["scores"].tolist()
            landmarks = result["landmarks"].flatten(1).tolist()
            faces.append(
                [
                    (box, points)
                    for box, score, points in zip(boxes, scores, landmarks)
                    if score >= FACE_SCORE and overlaps(box, picture)
                ]
            )
        return faces


def face_of_row(row, picture):
    """A table row as (box, points or None).

    Without a box the picture must be a square crop; the box is then 1.6 times smaller than it.
    """
    points = numbers(row, POINT_COLUMNS) if row.get(POINT_COLUMNS[0]) else None
    if row.get(BOX_COLUMNS[0]):
        box = numbers(row, BOX_COLUMNS)
        checked_boxes(box, *picture.size, f"{row['where']}: box", math.inf)
        return box, points
    width, height = picture.size
    if width != height:
        raise DataError(
            f"{row['where']}: {row['file']} is {width} x {height}, not a square crop; "
            "give its face box in the table"
        )
    margin = width * (1 - 1 / FACE_SCALE) / 2
    return [margin, margin, width - margin, height - margin], points


def overlaps(box, picture):
    """Whether a box (x0, y0, x1, y1) overlaps the picture."""
    return box[0] < picture.width and box[1] < picture.height and box[2] > 0 and box[3] > 0


def main_face(faces, picture):
    """The main face of a portrait: large and near the center.

    Its weight, the area minus twice the squared distance from the center, is largest, as in
    FaceNet's public code. BadPicture without a face, or if its landmarks leave the picture.
    """
    if not faces:
        raise BadPicture("no face found")
    box, points = max(faces, key=partial(portrait_weight, picture=picture))
    if (
        points is None
        or min(points) < 0
        or max(points[0::2]) > picture.width
        or max(points[1::2]) > picture.height
    ):
        raise BadPicture("the landmarks of its face do not lie in the picture")
    return box, points


def portrait_weight(face, picture):
    x0, y0, x1, y1 = face[0]
    right = (x0 + x1 - picture.width) / 2  # px, from the center
    down = (y0 + y1 - picture.height) / 2
    return (x1 - x0) * (y1 - y0) - 2 * (right**2 + down**2)
