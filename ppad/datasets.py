"""Where faces, action frames and pairs come from, and in which order they go out (paper sections 4 and 5.1).

The input pipeline is four parts that can be read on their own:

* `FaceSet`, `ActionSet`, `Pairs`, in the room `sets`: the pictures and what is known of them, and `batch()`;
* `toy_*` and `read_*`: where they come from, the drawn toy world or folders of pictures with a table;
* `Batches`: which items come next, a stream that can be saved and resumed bit for bit;
* `Feed`: the batches themselves, their pictures on the device that learns, the next made while this one is learnt from.

Sets that fit are held in memory as uint8, the rest stay in their files and are decoded batch by batch; either way every
picture is decoded once while a set is read. Wrong data are refused here with a `DataError` that names the file or row
and the mend, before they can become a wrong number later.
"""

import copy
import math
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch

from ppad import ranks
from ppad.readers import (
    BOX_COLUMNS,
    POINT_COLUMNS,
    SUFFIXES,
    BadPicture,
    DataError,
    Pictures,
    checked_boxes,
    cut_face,
    letterbox,
    numbers,
    open_picture,
    read_face,
    read_many,
    read_pair_lines,
    read_table,
)
from ppad.sets import ActionSet, FaceSet, Pairs
from ppad.toyworld import ACTIONS, DALY_NAMES, FACE_ACTIONS, ToyWorld

# Actions told apart at the face: the paper's six of DALY (section 5.3, Table 1) and, ours, those of Stanford 40.
NEAR_FACE = {
    *FACE_ACTIONS,
    *(DALY_NAMES[ACTIONS.index(name)] for name in FACE_ACTIONS),
    "blowing_bubbles",
    "brushing_teeth",
    "drinking",
    "phoning",
    "smoking",
    "taking_photos",
}


def _stack(pictures):
    return (
        torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
    )  # (N, H, W, 3) -> (N, 3, H, W)


def _near_face(classes):
    return [i for i, name in enumerate(classes) if name in NEAR_FACE]


# ---------------------------------------------------------------- the drawn world


def toy_faces(seed: int, identities: range, pictures_each: int, size: int = 64) -> FaceSet:
    """Draw `pictures_each` faces of each person in `identities`; the range's first person gets identity 0."""
    world, names, drawn = ToyWorld(seed), [], []
    for person in identities:
        for number in range(pictures_each):
            drawn.append(world.face(person, number, size=size))
            names.append(
                f"toy_{person:04d}/toy_{person:04d}_{number + 1:04d}"
            )  # LFW's way to name pictures
    landmarks = torch.from_numpy(np.stack([face.landmarks for face in drawn]))
    people = torch.arange(len(identities)).repeat_interleave(pictures_each)
    return FaceSet(_stack([face.image for face in drawn]), landmarks, people, names)


def toy_actions(seed: int, count: int, size: int, identities: range, start: int = 0) -> ActionSet:
    """Draw `count` scenes of size x size px: the actions in turn, so balanced, and each of them with every person.

    Give a test set other `identities` than its training set, and a `start` (number of the first scene) past its end.
    """
    world = ToyWorld(seed)
    scenes = [
        world.scene(
            i % len(ACTIONS), identities[i // len(ACTIONS) % len(identities)], start + i, size=size
        )
        for i in range(count)
    ]
    face_boxes = [
        np.zeros((0, 4)) if scene.face_box is None else scene.face_box for scene in scenes
    ]
    return ActionSet(
        _stack([scene.image for scene in scenes]),
        [scene.box for scene in scenes],
        [torch.tensor([scene.label]) for scene in scenes],
        face_boxes,
        [f"toy_{start + i:05d}" for i in range(count)],
        list(ACTIONS),
        _near_face(ACTIONS),
    )


def toy_pairs(face_set: FaceSet, folds: int = 10, per_fold: int = 30, seed: int = 0) -> Pairs:
    """Pairs as LFW has them: in each of `folds` folds, `per_fold` of one person and `per_fold` of two people.

    No pair comes twice. If every fold can be filled from people of its own, no person is in two folds (as in LFW); in a
    smaller set the folds share their people. Raises DataError if the set is too small even so.
    """
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.triu_indices(len(face_set), len(face_set), 1)  # every unordered pair once
    same = face_set.identities[first] == face_set.identities[second]
    fold_of = (
        torch.randperm(int(face_set.identities.max()) + 1, generator=generator) % folds
    )  # (people,)
    home, other = fold_of[face_set.identities[first]], fold_of[face_set.identities[second]]
    home[home != other] = -1  # two people of two folds: a pair of neither
    own = all(
        int(((home == fold) & (same == kind)).sum()) >= per_fold
        for fold in range(folds)
        for kind in (True, False)
    )
    chosen = []
    for kind in (True, False):
        pool = (same == kind).nonzero()[:, 0]
        pool = pool[torch.randperm(len(pool), generator=generator)]
        if len(pool) < folds * per_fold:
            raise DataError(
                f"toy_pairs: the set has {len(pool)} pairs of {'one person' if kind else 'two people'}, "
                f"{folds} folds need {folds * per_fold}; draw more people or pictures, or ask for fewer"
            )
        for fold in range(folds):
            chosen.append(
                pool[home[pool] == fold][:per_fold]
                if own
                else pool[fold * per_fold : (fold + 1) * per_fold]
            )
    index = torch.cat(chosen)  # (2 * folds * per_fold,)
    return Pairs(
        first[index],
        second[index],
        same[index],
        torch.arange(folds).repeat_interleave(per_fold).repeat(2),
    )


# ---------------------------------------------------------------- folders of pictures


def read_faces(
    folder,
    landmarks_csv,
    size: int,
    people: int = 0,
    pictures_each: int = 0,
    on_bad="error",
    memory: float = math.inf,
    workers: int = 0,
) -> FaceSet:
    """Read `folder`/person/picture with the five landmarks that a table has for each; people count in order of name.

    The table (commas or tabs) has `file`, relative to `folder` or to the table's own folder, and x and y of the five
    points. With a face box besides (x_min ... y_max), the square 1.6 times its longer side is cut out (LFW as it
    comes); without, the pictures must be square crops. people, pictures_each: read no more than these, 0 = all.
    on_bad="skip" leaves out, and names in `.skipped`, pictures that are absent, unreadable, not square or without
    usable landmarks; "error" raises DataError at the first. A fault of the table itself always raises DataError.
    memory: bytes that the crops may take; more than that stay in their files. workers: threads that decode, 0 = one a core.
    """
    folder, table = Path(folder), Path(landmarks_csv)
    _check_on_bad(on_bad)
    rows = {}
    for row in read_table(table, ("file", *POINT_COLUMNS)):
        if row["file"] in rows:
            raise DataError(
                f"{row['where']}: a second row for {row['file']}; delete one of the two"
            )
        rows[row["file"]] = row
    boxed = all(column in row for column in BOX_COLUMNS)
    home = table.resolve().parent
    if folder.resolve().is_relative_to(
        home
    ):  # a table of several folders (train, test): keep this one's rows
        prefix = folder.resolve().relative_to(home).as_posix() + "/"
        rows = {
            file.removeprefix(prefix): row for file, row in rows.items() if file.startswith(prefix)
        } or rows
    on_disk = {
        path.relative_to(folder).as_posix()
        for path in folder.glob("*/*")
        if path.suffix.lower() in SUFFIXES
    }
    most_people, most_each = people or math.inf, pictures_each or math.inf
    offered, points, names, skipped, count = {}, [], [], [], {}
    for file in sorted(on_disk | set(rows)):
        offered.setdefault(file.split("/")[0], []).append(file)
    sizes = [min(len(files), most_each) for files in offered.values()]
    total = sum(sizes[: people or None])
    bound = sum(
        sorted(sizes, reverse=True)[: people or None]
    )  # who has no usable picture makes room for somebody else

    def wanted(person):
        return count.get(person, 0) < most_each if person in count else len(count) < most_people

    def read(file):
        try:
            return file, *read_face(folder / file, rows.get(file), boxed, size)
        except DataError as problem:
            return file, problem

    held = _Holder((bound, 3, size, size), total * 3 * size**2 <= memory)
    files = (
        file for person, its in offered.items() for file in its if wanted(person)
    )  # asked for as reading goes on
    for file, *found in read_many(read, files, total, workers, str(folder)):
        person = file.split("/")[0]
        if not wanted(person):
            continue
        if isinstance(found[0], DataError):
            _refuse(found[0], on_bad, skipped)
            continue
        image, landmarks, window = found
        count[person] = count.get(person, 0) + 1
        held.add(image, str(folder / file), window)
        points.append(landmarks)
        names.append(Path(file).with_suffix("").as_posix())
    if not names:
        raise DataError(
            f"{folder}: no usable person/picture in it ({len(skipped)} skipped); check the path"
        )
    identity = {person: i for i, person in enumerate(count)}
    identities = torch.tensor([identity[name.split("/")[0]] for name in names])
    images = held.pictures(partial(cut_face, size=size), workers)
    return FaceSet(images, torch.from_numpy(np.stack(points)), identities, names, skipped)


def read_actions(
    folder,
    annotations_csv,
    faces_csv,
    split: str,
    frame_size,
    limit: int = 0,
    on_bad="error",
    memory: float = math.inf,
    workers: int = 0,
) -> ActionSet:
    """The ActionSet of one `split`, letterboxed to frame_size (H, W): scaled to fit, grey at the right or bottom.

    annotations_csv: file (relative to `folder`), split, action, width, height and a person box; one row a person.
    faces_csv: file and a face box; any number of rows a file. Classes are the actions of all splits, in order of name.
    limit: read so many frames, evenly over the split, 0 = all. on_bad="skip" leaves out, and names in `.skipped`,
    absent or unreadable pictures; "error" raises DataError at the first. A fault of a table always raises DataError.
    memory, workers: as in `read_faces`, of the frames.
    """
    _check_on_bad(on_bad)
    frames, seen = {}, set()
    for row in read_table(
        annotations_csv, ("file", "split", "action", "width", "height", *BOX_COLUMNS)
    ):
        width, height, *box = numbers(row, ("width", "height", *BOX_COLUMNS))
        if not row["action"]:
            raise DataError(
                f"{row['where']}: action is empty; name it, or delete the row (background needs none)"
            )
        frame = frames.setdefault(
            row["file"],
            {
                "split": row["split"],
                "size": (width, height),
                "actions": [],
                "boxes": [],
                "faces": [torch.zeros(0, 4)],
            },
        )
        if (row["split"], (width, height)) != (frame["split"], frame["size"]):
            raise DataError(
                f"{row['where']}: {row['file']} has another split or size further up; make the rows agree"
            )
        frame["boxes"].append(checked_boxes(box, width, height, f"{row['where']}: box"))
        frame["actions"].append(row["action"])
        _refuse_twice(row, (row["action"], *box), seen)
    seen = set()
    for row in read_table(faces_csv, ("file", *BOX_COLUMNS)):
        box = numbers(row, BOX_COLUMNS)
        if row["file"] not in frames:
            raise DataError(
                f"{row['where']}: {row['file']} is not in {annotations_csv}; use two tables of one version"
            )
        frame = frames[row["file"]]
        frame["faces"].append(
            checked_boxes(box, *frame["size"], f"{row['where']}: face box", math.inf)
        )
        _refuse_twice(row, tuple(box), seen)
    wanted = [file for file, frame in frames.items() if frame["split"] == split]
    if 0 < limit < len(wanted):
        wanted = [wanted[i * len(wanted) // limit] for i in range(limit)]
    classes = sorted({action for frame in frames.values() for action in frame["actions"]})
    boxes, labels, face_boxes, names, skipped = [], [], [], [], []

    def read(file):
        try:
            picture = open_picture(Path(folder) / file)
        except BadPicture as problem:
            return file, problem, None
        return file, picture.size, letterbox(picture, frame_size)

    held = _Holder((len(wanted), 3, *frame_size), len(wanted) * 3 * math.prod(frame_size) <= memory)
    for file, size, shaped in read_many(read, wanted, len(wanted), workers, str(folder)):
        frame, path = frames[file], Path(folder) / file
        if isinstance(size, BadPicture):
            _refuse(size, on_bad, skipped)
            continue
        if size != frame["size"]:
            raise DataError(
                f"{path}: is {size[0]} x {size[1]}, its row in {annotations_csv} says "
                f"{frame['size'][0]:g} x {frame['size'][1]:g}; use the picture that was annotated"
            )
        image, factors = shaped
        held.add(image, str(path), frame_size)
        boxes.append(torch.cat(frame["boxes"]) * factors)  # (n, 4)
        labels.append(
            torch.tensor([classes.index(action) + 1 for action in frame["actions"]])
        )  # (n,)
        face_boxes.append(torch.cat(frame["faces"]) * factors)  # (k, 4)
        names.append(file)
    if not names:
        splits = ", ".join(sorted({frame["split"] for frame in frames.values()}))
        raise DataError(
            f"{folder}: no usable picture of split {split!r} ({len(skipped)} skipped); "
            f"check the path, and the split: the table has {splits}"
        )
    pictures = held.pictures(lambda picture, size: letterbox(picture, size)[0], workers)
    return ActionSet(
        pictures, boxes, labels, face_boxes, names, classes, _near_face(classes), skipped
    )


def read_pairs(pairs_txt, face_set: FaceSet) -> Pairs:
    """Read pairs in LFW's format (see `readers.read_pair_lines`) and find their pictures in `face_set`.

    Pairs with a picture that the set lacks are left out and listed in `.dropped`. DataError if that leaves none.
    """
    per_fold, lines = read_pair_lines(pairs_txt)
    where = {name: i for i, name in enumerate(face_set.names)}
    kept, dropped = [], []
    for number, pair in enumerate(lines):
        a, b = (
            where.get(f"{person}/{person}_{i:04d}") for person, i in pair
        )  # LFW's way to name pictures
        if a is None or b is None:
            dropped.append("{}_{:04d} {}_{:04d}".format(*pair[0], *pair[1]))
        else:
            kept.append((a, b, pair[0][0] == pair[1][0], number // per_fold))
    if not kept:
        raise DataError(
            f"{pairs_txt}: none of its {len(lines)} pairs is in the face set; read the folder it belongs to"
        )
    first, second, same, fold = torch.tensor(kept).T  # 4 x (P,)
    return Pairs(first, second, same.bool(), fold, dropped)


class _Holder:
    """Pictures as they are read, N at most: kept as uint8 (N, 3, H, W) or, if they do not fit, only their places."""

    def __init__(self, shape, fits):
        self.shape, self.sources = shape, []
        self.kept = torch.empty(shape, dtype=torch.uint8) if fits else None

    def add(self, image, path, known):
        if self.kept is not None:
            self.kept[len(self.sources)] = torch.from_numpy(image).permute(2, 0, 1)
        self.sources.append((path, known))

    def pictures(self, shape_it, workers):
        """The tensor, or `readers.Pictures` that make each picture as `shape_it(PIL picture, known)`."""
        if self.kept is not None:
            return self.kept[: len(self.sources)]
        return Pictures(self.sources, shape_it, self.shape[2:], workers)


def _check_on_bad(on_bad):
    if on_bad not in ("error", "skip"):
        raise ValueError(f"on_bad is {on_bad!r}: give 'error' or 'skip'.")


def _refuse(problem, on_bad, skipped):
    """Raise for a fault of the table; raise for one bad picture, or note it and let the reader go on."""
    if on_bad == "error" or not isinstance(problem, BadPicture):
        raise problem
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
            raise ValueError(
                f"batch_size is {batch_size}: give 1 to {count}, the number of items in the set."
            )
        self.count, self.batch_size = count, batch_size
        self.generator = torch.Generator().manual_seed(seed)
        self.order, self.position = torch.empty(0, dtype=torch.long), 0

    def next(self):
        """Indices (B,) int64 and mirror flags (B,) bool, each true half of the time (SphereFace augments by this only)."""
        if self.position + self.batch_size > len(self.order):
            self.order, self.position = torch.randperm(self.count, generator=self.generator), 0
        indices = self.order[self.position : self.position + self.batch_size]
        self.position += self.batch_size
        return indices, torch.rand(self.batch_size, generator=self.generator) < 0.5

    def peek(self):
        """What `next` will give, without taking it."""
        ahead = copy.copy(self)
        ahead.generator = self.generator.clone_state()
        return ahead.next()

    def state_dict(self) -> dict:
        return {
            "count": self.count,
            "batch_size": self.batch_size,
            "generator": self.generator.get_state(),
            "order": self.order.clone(),
            "position": self.position,
        }

    def load_state_dict(self, state: dict):
        """Go on exactly where the saved stream stood; ValueError if it ran over another set or batch size."""
        for name in ("count", "batch_size"):
            if state[name] != getattr(self, name):
                raise ValueError(
                    f"{name} was {state[name]} when this run began and is {getattr(self, name)} now: restore the "
                    "pictures that were there, or choose another --out"
                )
        self.generator.set_state(
            state["generator"].cpu()
        )  # a checkpoint may have been loaded to a GPU
        self.order, self.position = state["order"].cpu().clone(), state["position"]


class Feed:
    """A set's batches on `device`, in the order of `batches`, the following one made while this one is learnt from.

    Pictures that must be decoded or go to a GPU are made ready by a thread of their own; what lies in memory beside the
    CPU that learns is taken as it is asked for. What is ready early does not show in `batches`: its state is that of
    `batches.next()` alone, so a run goes on from a checkpoint as if nothing had been made ahead. data: a `FaceSet` or
    `ActionSet`; batches: `Batches` over it, which others may use or set back at any time.
    """

    def __init__(self, data, batches: Batches, device="cpu"):
        self.data, self.batches, self.device = data, batches, torch.device(device)
        self.worker = self.ready = None
        if self.device.type == "cuda":
            here = (
                self.device.index if self.device.index is not None else torch.cuda.current_device()
            )
            self.device = torch.device(
                "cuda", here
            )  # said aloud: which GPU is the current one, each thread has to be told
            self.worker = ThreadPoolExecutor(1, initializer=torch.cuda.set_device, initargs=(here,))
        elif data.lazy:
            self.worker = ThreadPoolExecutor(1)

    def next(self):
        """What `data.batch(*batches.next(), device)` gives; where several processes train, this one's share of it."""
        indices, mirror = self.batches.next()
        if self.worker is None:
            return self._make(indices, mirror)
        if self.ready is None or not (
            torch.equal(self.ready[0], indices) and torch.equal(self.ready[1], mirror)
        ):
            self._begin(indices, mirror)  # the first batch, or the stream was moved from outside
        batch = self.ready[2].result()
        self._begin(*self.batches.peek())
        return batch

    def _begin(self, indices, mirror):
        self.ready = indices, mirror, self.worker.submit(self._make, indices, mirror)

    def _make(self, indices, mirror):
        return self.data.batch(*ranks.share(indices, mirror), self.device)
