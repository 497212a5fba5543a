"""Where the prepare_* scripts get faces from: MTCNN, the paper's rule, or a table that is given.

The first two are `ppad.ssh:FaceFinder`.
"""

import hashlib
import math
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch

# `python data_scripts/x.py` leaves the project out
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ppad import optim
from ppad.crop_sampler import FACE_SCALE
from ppad.files import BadPicture, DataError, numbers, plain_name, read_table
from ppad.folders import BOX_COLUMNS, POINT_COLUMNS, check_convention, checked_boxes
from ppad.mtcnn import MTCNN
from ppad.ssh import SSH, FaceFinder

FACE_SCORE = 0.8  # paper Sec. 4, of SSH: detections above 0.8 are kept; ours: of any rule


def check_device(name):
    """DataError unless torch can compute there."""
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
    """Faces of pictures, from a table or the face finder. `name` says which, for the journal."""

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

    def check_table(self, known):
        """DataError if no row of the table is of a picture; prints how many rows are of none.

        known: the names that a table may use for the pictures of SOURCE.
        """
        known = list(known)
        if self.rows is None or not known:
            return
        spelled = set(map(plain_name, known))
        strange = [name for name in self.rows if name not in spelled]
        count = sum(len(self.rows[name]) for name in strange)
        if len(strange) == len(self.rows):
            raise DataError(
                f"{self.table}: none of its {count:,} rows is of a picture of SOURCE: its first "
                f"file is {strange[0]!r}, the first picture {known[0]!r}; write the names alike"
            )
        if strange:
            print(f"{self.table}: {count:,} rows match no picture, such as {strange[0]}")

    def __call__(self, names, pictures):
        """For each picture a list of (box, points or None).

        names: n lists of the names that a table may use. pictures: n Pillow pictures.
        """
        if self.rows is None:
            return self._find(pictures)
        faces = []
        for known, picture in zip(names, pictures):
            spelled = map(plain_name, known)
            rows = next((self.rows[name] for name in spelled if name in self.rows), [])
            faces.append([face_of_row(row, picture) for row in rows])
        return faces

    def _find(self, pictures):
        frames = [torch.tensor(np.asarray(picture)) for picture in pictures]  # (H, W, 3) uint8
        faces = []
        for found, picture in zip(self.finder.find(frames), pictures):
            boxes = found["boxes"].tolist()
            scores = found["scores"].tolist()
            landmarks = found["landmarks"].flatten(1).tolist()
            faces.append(
                [
                    (box, points)
                    for box, score, points in zip(boxes, scores, landmarks)
                    if score >= FACE_SCORE and overlaps(box, picture)
                ]
            )
        return faces


def face_of_row(row, picture):
    """The (box, points or None) that a row of a table says.

    A row without a box is of a crop: its box is the one whose 1.6-fold square is the whole picture.
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
    """Whether any of an (x0, y0, x1, y1) box lies in the picture."""
    return box[0] < picture.width and box[1] < picture.height and box[2] > 0 and box[3] > 0


def main_face(faces, picture):
    """The face that a portrait is of: large and near the middle.

    The weight is the area minus twice the squared distance from the middle, as in FaceNet's public
    preparation. BadPicture when there is none, or its landmarks do not lie in the picture.
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
    right = (x0 + x1 - picture.width) / 2  # px, from the middle
    down = (y0 + y1 - picture.height) / 2
    return (x1 - x0) * (y1 - y0) - 2 * (right**2 + down**2)
