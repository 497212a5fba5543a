"""Where the prepare_* scripts get faces from: MTCNN or the paper's rule (`ppad.face_finder`), or a table that is given."""

import hashlib
import math
import sys
from pathlib import Path

import torch

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # `python data_scripts/x.py` leaves the project out

from _untrusted import BadItem, UserError

from ppad.face_finder import FaceFinder
from ppad.mtcnn import MTCNN
from ppad.readers import BOX_COLUMNS, FACE_SCALE, POINT_COLUMNS, checked_boxes, numbers, read_table

FACE_SCORE = 0.8  # paper Sec. 4: detections above 0.8 are kept


def check_device(name):
    """UserError unless torch can compute there."""
    try:
        device = torch.device(name)
    except RuntimeError as problem:
        raise UserError(
            f"device is '{name}', which is no device of torch: use cpu or cuda"
        ) from problem
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device is '{name}', but torch sees no GPU here: use --device cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"device is '{name}', but torch sees {torch.cuda.device_count()} GPU(s) here: use --device cuda"
        )


class Faces:
    """Where faces come from: a table, or the face finder. `faces(name, pictures)`; `name` says which, for the journal."""

    def __init__(self, args):
        check_device(args.device)
        rule = getattr(args, "rule", "mtcnn")
        if args.landmarks:
            actions = hasattr(args, "rule")
            self.rows = {}
            for row in read_table(
                args.landmarks, ("file", *(BOX_COLUMNS if actions else POINT_COLUMNS))
            ):
                self.rows.setdefault(row["file"], []).append(row)
            self.name = f"table {hashlib.sha256(args.landmarks.read_bytes()).hexdigest()[:16]}"
            return
        try:
            self.rows, self.name = None, rule
            mtcnn = None if rule == "ssh" else MTCNN.load().to(args.device)
            self.finder = FaceFinder(mtcnn, rule=rule)
        except (ValueError, RuntimeError) as problem:  # no weights, or no such device
            raise UserError(
                f"faces cannot be found: {problem}. Or give a table of faces with --landmarks"
            ) from problem

    def __call__(self, names, pictures):
        """names: n lists of the names a table may use; pictures: n PIL images. -> n lists of (box, points or None)."""
        if self.rows is not None:
            return [
                [
                    self._of(row, picture)
                    for row in next((self.rows[name] for name in known if name in self.rows), [])
                ]
                for known, picture in zip(names, pictures)
            ]
        frames = [
            torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(
                picture.height, picture.width, 3
            )
            for picture in pictures
        ]  # (H, W, 3)
        return [
            [
                (box, points)
                for box, score, points in zip(
                    f["boxes"].tolist(), f["scores"].tolist(), f["landmarks"].flatten(1).tolist()
                )
                if score >= FACE_SCORE and overlaps(box, picture)
            ]
            for f, picture in zip(self.finder.find(frames), pictures)
        ]

    def _of(self, row, picture):
        points = numbers(row, POINT_COLUMNS) if row.get(POINT_COLUMNS[0]) else None
        if row.get(BOX_COLUMNS[0]):
            box = numbers(row, BOX_COLUMNS)
            checked_boxes(box, *picture.size, f"{row['where']}: box", math.inf)
            return box, points
        width, height = picture.size  # a crop: the box whose 1.6-fold square is the whole picture
        if width != height:
            raise UserError(
                f"{row['where']}: {row['file']} is {width} x {height}, not a square crop; give its face box in the table"
            )
        margin = width * (1 - 1 / FACE_SCALE) / 2
        return [margin, margin, width - margin, height - margin], points


def overlaps(box, picture):
    """Whether any of an (x0, y0, x1, y1) box lies in the picture."""
    return box[0] < picture.width and box[1] < picture.height and box[2] > 0 and box[3] > 0


def main_face(faces, picture):
    """The face that a portrait is of: large and near the middle (area minus twice the squared distance, as FaceNet's
    public preparation weighs them). BadItem when there is none, or its landmarks do not lie in the picture."""

    def weight(face):
        x0, y0, x1, y1 = face[0]
        return (x1 - x0) * (y1 - y0) - 2 * (
            ((x0 + x1 - picture.width) / 2) ** 2 + ((y0 + y1 - picture.height) / 2) ** 2
        )

    if not faces:
        raise BadItem("no face found")
    box, points = max(faces, key=weight)
    if (
        points is None
        or min(points) < 0
        or max(points[0::2]) > picture.width
        or max(points[1::2]) > picture.height
    ):
        raise BadItem("the landmarks of its face do not lie in the picture")
    return box, points
