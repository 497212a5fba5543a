"""Faces, action frames and verification pairs, in memory and checked (paper sections 4 and 5.1).

The paper trains on two kinds of pictures: a face set with identities (for the recogniser D) and action frames with
person boxes and their actions (for the detector A). Both are small enough here to live in memory as uint8, so the
whole input pipeline is three parts that can be read on their own:

* `FaceSet`, `ActionSet`, `Pairs`: the tensors, and `batch()`, which makes floats in [-1, 1] of them;
* `toy_*` and `read_*`: where they come from, the drawn toy world or folders of pictures with a table;
* `Batches`: which items come next, a stream that can be saved and resumed bit for bit.

Boxes are xyxy pixels and landmarks x,y pixels, continuous (pixel i covers [i, i+1)). Wrong data are refused here with
a `DataError` that names the file or row and the mend, before they can become a wrong number later.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from ppad.crop_sampler import enlarge_boxes
from ppad.readers import (BOX_COLUMNS, FACE_SCALE, POINT_COLUMNS, SUFFIXES, BadPicture, DataError, checked_boxes,
                          letterbox, numbers, open_picture, read_face, read_pair_lines, read_table)
from ppad.toyworld import ACTIONS, DALY_NAMES, FACE_ACTIONS, ToyWorld

MIRROR_ORDER = [1, 0, 2, 4, 3]  # in a mirror the image-left eye is the image-right one, and so for the mouth's corners
# Actions told apart at the face: the paper's six of DALY (section 5.3, Table 1) and, ours, those of Stanford 40.
NEAR_FACE = {*FACE_ACTIONS, *(DALY_NAMES[ACTIONS.index(name)] for name in FACE_ACTIONS),
             "blowing_bubbles", "brushing_teeth", "drinking", "phoning", "smoking", "taking_photos"}


# ---------------------------------------------------------------- sets in memory

@dataclass
class FaceSet:
    """Face crops with landmarks and people; `skipped` says which pictures a reader left out, and why.

    images (N, 3, S, S) uint8 RGB; landmarks (N, 5, 2) float32 px of the crop; identities (N,) int64, 0..P-1 without
    gaps; names: N times "person/picture", without suffix.
    """
    images: torch.Tensor
    landmarks: torch.Tensor
    identities: torch.Tensor
    names: list[str]
    skipped: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices, mirror=None):
        """Some faces as the networks want them.

        indices (B,) int64; mirror (B,) bool or None: which of them to flip left to right.
        Returns faces (B, 3, S, S) float in [-1, 1], landmarks (B, 5, 2) px, identities (B,) int64.
        """
        faces, points = _to_float(self.images[indices]), self.landmarks[indices]  # (B, 3, S, S), (B, 5, 2)
        if mirror is not None:
            flipped = torch.stack([faces.shape[3] - points[..., 0], points[..., 1]], 2)[:, MIRROR_ORDER]  # (B, 5, 2)
            faces = torch.where(mirror[:, None, None, None], faces.flip(3), faces)
            points = torch.where(mirror[:, None, None], flipped, points)
        return faces, points, self.identities[indices]


@dataclass
class ActionSet:
    """Action frames of one size; `skipped` says which pictures a reader left out, and why.

    frames (N, 3, H, W) uint8 RGB. One entry a frame in: boxes (n, 4) px of the people; labels (n,) int64, 1 to
    len(classes), 0 being the background, so `classes[label - 1]` is the name; face_boxes (k, 4) px as found, not
    enlarged, k may be 0; names. face_actions: 0-based positions in `classes` of the actions that happen at the face.
    Boxes are clipped to the frame. Raises DataError for a box or label that cannot be right.
    """
    frames: torch.Tensor
    boxes: list
    labels: list
    face_boxes: list
    names: list[str]
    classes: list[str]
    face_actions: list[int]
    skipped: list[str] = field(default_factory=list)

    def __post_init__(self):
        size = self.frames.shape[3], self.frames.shape[2]
        self.boxes = [checked_boxes(b, *size, f"{name}: box") for name, b in zip(self.names, self.boxes)]
        self.face_boxes = [checked_boxes(b, *size, f"{name}: face box", math.inf)
                           for name, b in zip(self.names, self.face_boxes)]
        for name, labels, boxes in zip(self.names, self.labels, self.boxes):
            if len(labels) != len(boxes) or not all(1 <= label <= len(self.classes) for label in labels.tolist()):
                raise DataError(f"{name}: labels {labels.tolist()} of {len(boxes)} boxes; give one label a box, "
                                f"from 1 to {len(self.classes)} (0 is the background)")

    def __len__(self) -> int:
        return len(self.frames)

    def batch(self, indices, mirror=None):
        """Some frames as the detector wants them.

        indices (B,) int64; mirror (B,) bool or None: which of them to flip left to right.
        Returns frames (B, 3, H, W) float in [-1, 1]; targets, a list of {"boxes": (n, 4) px, "labels": (n,) int64}; and
        face boxes, a list of (k, 4) px, enlarged 1.6 times about their centre (paper section 5.2) and clipped.
        """
        indices = torch.as_tensor(indices)
        frames = _to_float(self.frames[indices])  # (B, 3, H, W)
        height, width = frames.shape[2:]
        if mirror is None:
            mirror = torch.zeros(len(frames), dtype=torch.bool)
        frames = torch.where(mirror[:, None, None, None], frames.flip(3), frames)
        targets, faces = [], []
        for i, flip in zip(indices.tolist(), mirror.tolist()):
            boxes, found = self.boxes[i], self.face_boxes[i]
            if flip:
                boxes, found = _mirrored(boxes, width), _mirrored(found, width)
            targets.append({"boxes": boxes, "labels": self.labels[i]})
            faces.append(enlarge_boxes(found, (height, width), FACE_SCALE))
        return frames, targets, faces


@dataclass
class Pairs:
    """P verification pairs: first and second (P,) int64 index a FaceSet; same (P,) bool; folds (P,) int64, from 0.

    `dropped` names the pairs of a pairs file with a picture that the face set lacks.
    """
    first: torch.Tensor
    second: torch.Tensor
    same: torch.Tensor
    folds: torch.Tensor
    dropped: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.same)


def _to_float(pictures):
    return pictures.float() / 127.5 - 1  # uint8 0..255 -> M's range [-1, 1]


def _mirrored(boxes, width):
    return torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1)  # (n, 4)


def _stack(pictures):
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()  # (N, H, W, 3) -> (N, 3, H, W)


def _near_face(classes):
    return [i for i, name in enumerate(classes) if name in NEAR_FACE]


# ---------------------------------------------------------------- the drawn world

def toy_faces(seed: int, identities: range, pictures_each: int, size: int = 64) -> FaceSet:
    """Draw `pictures_each` faces of each person in `identities`; the range's first person gets identity 0."""
    world, names, drawn = ToyWorld(seed), [], []
    for person in identities:
        for number in range(pictures_each):
            drawn.append(world.face(person, number, size=size))
            names.append(f"toy_{person:04d}/toy_{person:04d}_{number + 1:04d}")  # LFW's way to name pictures
    landmarks = torch.from_numpy(np.stack([face.landmarks for face in drawn]))
    people = torch.arange(len(identities)).repeat_interleave(pictures_each)
    return FaceSet(_stack([face.image for face in drawn]), landmarks, people, names)


def toy_actions(seed: int, count: int, size: int, identities: range, start: int = 0) -> ActionSet:
    """Draw `count` scenes of size x size px: the actions in turn, so balanced, and each of them with every person.

    Give a test set other `identities` than its training set, and a `start` (number of the first scene) past its end.
    """
    world = ToyWorld(seed)
    scenes = [world.scene(i % len(ACTIONS), identities[i // len(ACTIONS) % len(identities)], start + i, size=size)
              for i in range(count)]
    face_boxes = [np.zeros((0, 4)) if scene.face_box is None else scene.face_box for scene in scenes]
    return ActionSet(_stack([scene.image for scene in scenes]), [scene.box for scene in scenes],
                     [torch.tensor([scene.label]) for scene in scenes], face_boxes,
                     [f"toy_{start + i:05d}" for i in range(count)], list(ACTIONS), _near_face(ACTIONS))


def toy_pairs(face_set: FaceSet, folds: int = 10, per_fold: int = 30, seed: int = 0) -> Pairs:
    """Pairs as LFW has them: in each of `folds` folds, `per_fold` of one person and `per_fold` of two people.

    No pair comes twice. If every fold can be filled from people of its own, no person is in two folds (as in LFW); in a
    smaller set the folds share their people. Raises DataError if the set is too small even so.
    """
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.triu_indices(len(face_set), len(face_set), 1)  # every unordered pair once
    same = face_set.identities[first] == face_set.identities[second]
    fold_of = torch.randperm(int(face_set.identities.max()) + 1, generator=generator) % folds  # (people,)
    home, other = fold_of[face_set.identities[first]], fold_of[face_set.identities[second]]
    home[home != other] = -1  # two people of two folds: a pair of neither
    own = all(int(((home == fold) & (same == kind)).sum()) >= per_fold
              for fold in range(folds) for kind in (True, False))
    chosen = []
    for kind in (True, False):
        pool = (same == kind).nonzero()[:, 0]
        pool = pool[torch.randperm(len(pool), generator=generator)]
        if len(pool) < folds * per_fold:
            raise DataError(f"toy_pairs: the set has {len(pool)} pairs of {'one person' if kind else 'two people'}, "
                            f"{folds} folds need {folds * per_fold}; draw more people or pictures, or ask for fewer")
        for fold in range(folds):
            chosen.append(pool[home[pool] == fold][:per_fold] if own else pool[fold * per_fold:(fold + 1) * per_fold])
    index = torch.cat(chosen)  # (2 * folds * per_fold,)
    return Pairs(first[index], second[index], same[index], torch.arange(folds).repeat_interleave(per_fold).repeat(2))


# ---------------------------------------------------------------- folders of pictures

def read_faces(folder, landmarks_csv, size: int, people: int = 0, pictures_each: int = 0, on_bad="error") -> FaceSet:
    """Read `folder`/person/picture with the five landmarks that a table has for each; people count in order of name.

    The table (commas or tabs) has `file`, relative to `folder` or to the table's own folder, and x and y of the five
    points. With a face box besides (x_min ... y_max), the square 1.6 times its longer side is cut out (LFW as it
    comes); without, the pictures must be square crops. people, pictures_each: read no more than these, 0 = all.
    on_bad="skip" leaves out, and names in `.skipped`, pictures that are absent, unreadable, not square or without
    usable landmarks; "error" raises DataError at the first. A fault of the table itself always raises DataError.
    """
    folder, table = Path(folder), Path(landmarks_csv)
    _check_on_bad(on_bad)
    rows = {}
    for row in read_table(table, ("file", *POINT_COLUMNS)):
        if row["file"] in rows:
            raise DataError(f"{row['where']}: a second row for {row['file']}; delete one of the two")
        rows[row["file"]] = row
    boxed = all(column in row for column in BOX_COLUMNS)
    home = table.resolve().parent
    if folder.resolve().is_relative_to(home):  # a table of several folders (train, test): keep this one's rows
        prefix = folder.resolve().relative_to(home).as_posix() + "/"
        rows = {file.removeprefix(prefix): row for file, row in rows.items() if file.startswith(prefix)} or rows
    on_disk = {path.relative_to(folder).as_posix() for path in folder.glob("*/*") if path.suffix.lower() in SUFFIXES}
    most_people, most_each = people or math.inf, pictures_each or math.inf
    images, points, names, skipped, count = [], [], [], [], {}
    for file in sorted(on_disk | set(rows)):
        person = file.split("/")[0]
        if (person not in count and len(count) == most_people) or count.get(person) == most_each:
            continue
        try:
            image, landmarks = read_face(folder / file, rows.get(file), boxed, size)
        except BadPicture as problem:
            _refuse(problem, on_bad, skipped)
            continue
        count[person] = count.get(person, 0) + 1
        images.append(image)
        points.append(landmarks)
        names.append(Path(file).with_suffix("").as_posix())
    if not images:
        raise DataError(f"{folder}: no usable person/picture in it ({len(skipped)} skipped); check the path")
    identity = {person: i for i, person in enumerate(count)}
    identities = torch.tensor([identity[name.split("/")[0]] for name in names])
    return FaceSet(_stack(images), torch.from_numpy(np.stack(points)), identities, names, skipped)


def read_actions(folder, annotations_csv, faces_csv, split: str, frame_size, limit: int = 0, on_bad="error"):
    """The ActionSet of one `split`, letterboxed to frame_size (H, W): scaled to fit, grey at the right or bottom.

    annotations_csv: file (relative to `folder`), split, action, width, height and a person box; one row a person.
    faces_csv: file and a face box; any number of rows a file. Classes are the actions of all splits, in order of name.
    limit: read so many frames, evenly over the split, 0 = all. on_bad="skip" leaves out, and names in `.skipped`,
    absent or unreadable pictures; "error" raises DataError at the first. A fault of a table always raises DataError.
    """
    _check_on_bad(on_bad)
    frames, seen = {}, set()
    for row in read_table(annotations_csv, ("file", "split", "action", "width", "height", *BOX_COLUMNS)):
        width, height, *box = numbers(row, ("width", "height", *BOX_COLUMNS))
        if not row["action"]:
            raise DataError(f"{row['where']}: action is empty; name it, or delete the row (background needs none)")
        frame = frames.setdefault(row["file"], {"split": row["split"], "size": (width, height), "actions": [],
                                                "boxes": [], "faces": [torch.zeros(0, 4)]})
        if (row["split"], (width, height)) != (frame["split"], frame["size"]):
            raise DataError(f"{row['where']}: {row['file']} has another split or size further up; make the rows agree")
        frame["boxes"].append(checked_boxes(box, width, height, f"{row['where']}: box"))
        frame["actions"].append(row["action"])
        _refuse_twice(row, (row["action"], *box), seen)
    seen = set()
    for row in read_table(faces_csv, ("file", *BOX_COLUMNS)):
        box = numbers(row, BOX_COLUMNS)
        if row["file"] not in frames:
            raise DataError(f"{row['where']}: {row['file']} is not in {annotations_csv}; use two tables of one version")
        frame = frames[row["file"]]
        frame["faces"].append(checked_boxes(box, *frame["size"], f"{row['where']}: face box", math.inf))
        _refuse_twice(row, tuple(box), seen)
    wanted = [file for file, frame in frames.items() if frame["split"] == split]
    if 0 < limit < len(wanted):
        wanted = [wanted[i * len(wanted) // limit] for i in range(limit)]
    classes = sorted({action for frame in frames.values() for action in frame["actions"]})
    pictures, boxes, labels, face_boxes, names, skipped = [], [], [], [], [], []
    for file in wanted:
        frame, path = frames[file], Path(folder) / file
        try:
            picture = open_picture(path)
        except BadPicture as problem:
            _refuse(problem, on_bad, skipped)
            continue
        if picture.size != frame["size"]:
            raise DataError(f"{path}: is {picture.width} x {picture.height}, its row in {annotations_csv} says "
                            f"{frame['size'][0]:g} x {frame['size'][1]:g}; use the picture that was annotated")
        image, factors = letterbox(picture, frame_size)
        pictures.append(image)
        boxes.append(torch.cat(frame["boxes"]) * factors)  # (n, 4)
        labels.append(torch.tensor([classes.index(action) + 1 for action in frame["actions"]]))  # (n,)
        face_boxes.append(torch.cat(frame["faces"]) * factors)  # (k, 4)
        names.append(file)
    if not pictures:
        splits = ", ".join(sorted({frame["split"] for frame in frames.values()}))
        raise DataError(f"{folder}: no usable picture of split {split!r} ({len(skipped)} skipped); "
                        f"check the path, and the split: the table has {splits}")
    return ActionSet(_stack(pictures), boxes, labels, face_boxes, names, classes, _near_face(classes), skipped)


def read_pairs(pairs_txt, face_set: FaceSet) -> Pairs:
    """Read pairs in LFW's format (see `readers.read_pair_lines`) and find their pictures in `face_set`.

    Pairs with a picture that the set lacks are left out and listed in `.dropped`. DataError if that leaves none.
    """
    per_fold, lines = read_pair_lines(pairs_txt)
    where = {name: i for i, name in enumerate(face_set.names)}
    kept, dropped = [], []
    for number, pair in enumerate(lines):
        a, b = (where.get(f"{person}/{person}_{i:04d}") for person, i in pair)  # LFW's way to name pictures
        if a is None or b is None:
            dropped.append("{}_{:04d} {}_{:04d}".format(*pair[0], *pair[1]))
        else:
            kept.append((a, b, pair[0][0] == pair[1][0], number // per_fold))
    if not kept:
        raise DataError(f"{pairs_txt}: none of its {len(lines)} pairs is in the face set; read the folder it belongs to")
    first, second, same, fold = torch.tensor(kept).T  # 4 x (P,)
    return Pairs(first, second, same.bool(), fold, dropped)


def _check_on_bad(on_bad):
    if on_bad not in ("error", "skip"):
        raise ValueError(f"on_bad is {on_bad!r}: give 'error' or 'skip'.")


def _refuse(problem, on_bad, skipped):
    """Raise for one bad picture, or note it and let the reader go on."""
    if on_bad == "error":
        raise DataError(f"{problem}, or pass on_bad='skip'") from problem
    skipped.append(str(problem))


def _refuse_twice(row, key, seen):
    if (row["file"], key) in seen:
        raise DataError(f"{row['where']}: a duplicate row for {row['file']}; delete it")
    seen.add((row["file"], key))


# ---------------------------------------------------------------- the order of things

class Batches:
    """An endless stream of batches: every epoch a new permutation, its incomplete last batch dropped.

    Draws from a generator of its own, so nothing else in a run moves it, and `state_dict` restores its exact position.
    count: items in the set; batch_size: 1 to count. Raises ValueError otherwise.
    """

    def __init__(self, count: int, batch_size: int, seed: int):
        if not 1 <= batch_size <= count:
            raise ValueError(f"batch_size is {batch_size}: give 1 to {count}, the number of items in the set.")
        self.count, self.batch_size = count, batch_size
        self.generator = torch.Generator().manual_seed(seed)
        self.order, self.position = torch.empty(0, dtype=torch.long), 0

    def next(self):
        """Indices (B,) int64 and mirror flags (B,) bool, each true half of the time (SphereFace augments by this only)."""
        if self.position + self.batch_size > len(self.order):
            self.order, self.position = torch.randperm(self.count, generator=self.generator), 0
        indices = self.order[self.position:self.position + self.batch_size]
        self.position += self.batch_size
        return indices, torch.rand(self.batch_size, generator=self.generator) < 0.5

    def state_dict(self) -> dict:
        return {"count": self.count, "batch_size": self.batch_size, "generator": self.generator.get_state(),
                "order": self.order.clone(), "position": self.position}

    def load_state_dict(self, state: dict):
        """Go on exactly where the saved stream stood; ValueError if it ran over another set or batch size."""
        for name in ("count", "batch_size"):
            if state[name] != getattr(self, name):
                raise ValueError(f"the saved {name} is {state[name]}, this run's is {getattr(self, name)}: resume with the "
                                 "same data and settings.")
        self.generator.set_state(state["generator"].cpu())  # a checkpoint may have been loaded to a GPU
        self.order, self.position = state["order"].cpu().clone(), state["position"]
