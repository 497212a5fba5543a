"""Faces, action frames, verification pairs, and the batches to train on (Sec. 4, 5.1).

The paper trains the recognizer D on faces with identities, and the detector A on action frames
with person boxes and their actions. `toy_*` draw such data, `read_*` read folders of pictures;
`FaceSet`, `ActionSet` (torch Datasets) and `Pairs` hold them; `BatchSampler` chooses the items of
each step, and `batches` loads them.

Pictures are uint8, in memory, or, if they do not fit, decoded from their files batch by batch.
Boxes and landmarks are pixels as in `folders`.
"""

import hashlib
import itertools
import math
import signal
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.ops import clip_boxes_to_image

from ppad import files, folders, optim
from ppad.crop_sampler import FACE_SCALE, face_squares
from ppad.files import DataError, find_pairs
from ppad.folders import PictureFiles, person_of
from ppad.toyworld import ACTIONS, ToyWorld

MIRROR_ORDER = [1, 0, 2, 4, 3]  # of the landmarks in a mirror image
MAX_LOADERS = 4  # ours: processes of one DataLoader; each prefetches two batches


# ---------------------------------------------------------------- sets


def checksum(*values) -> str:
    """16 hexadecimal digits of the SHA-256 of plain values."""
    return hashlib.sha256(repr(values).encode()).hexdigest()[:16]


def to_floats(pictures, device):
    """uint8 pictures as float in [-1, 1] on `device`; pinned ones go to a GPU asynchronously."""
    pinned = torch.device(device).type == "cuda"
    return pictures.to(device, non_blocking=pinned).float().div_(127.5).sub_(1)


def mirrored(boxes, width):
    """Boxes (n, 4) px after a left-to-right flip of their frame, `width` px wide."""
    x0, y0, x1, y1 = boxes.unbind(1)
    return torch.stack([width - x1, y0, width - x0, y1], 1)


@dataclass
class Floats:
    """Pictures (N, 3, H, W) uint8, converted to [-1, 1] when indexed."""

    pictures: torch.Tensor | PictureFiles

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, indices) -> torch.Tensor:
        return to_floats(self.pictures[indices], "cpu")


class _PictureSet(Dataset):
    """Base of both sets. Their `pictures`, (N, 3, H, W) uint8: a tensor or `PictureFiles`."""

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitems__(self, items) -> tuple:
        """What `select` returns for a list of (index, mirrored); a DataLoader calls this.

        A DataError is returned, for `batches` to raise: torch would bury it in a traceback.
        """
        try:
            return self.select(*map(torch.tensor, zip(*items)))
        except DataError as error:
            return (error,)

    def fingerprint(self) -> str:
        """A checksum of names, files and tables, not of paths; "drawn" for a drawn set."""
        content = (self.names, self.checksums, [table.tolist() for table in self.tables()])
        return checksum(*content) if self.checksums else "drawn"

    @property
    def lazy(self) -> bool:
        """Whether pictures are decoded batch by batch."""
        return isinstance(self.pictures, PictureFiles)

    @property
    def nbytes(self) -> int:
        """Bytes of all decoded pictures, whether or not they are in memory."""
        return math.prod(self.pictures.shape)

    def batch(self, indices, mirror=None, device="cpu"):
        """What `select` returns, with the pictures as float in [-1, 1].

        indices: (B,) int64. mirror: (B,) bool, which to flip left to right, None = none. device:
        for the pictures only; checks of the rest, on the CPU, need no GPU sync.
        """
        indices = torch.as_tensor(indices, dtype=torch.long)
        mirror = torch.zeros(len(indices), dtype=torch.bool) if mirror is None else mirror
        pictures, *rest = self.select(indices, mirror)
        return to_floats(pictures, device), *rest

    def flipped(self, indices, mirror):
        """Pictures (B, 3, H, W) uint8, flipped left to right where `mirror` (B,) is True."""
        pictures = self.pictures[indices]
        if mirror.any():
            pictures[mirror] = pictures[mirror].flip(3)
        return pictures


@dataclass
class FaceSet(_PictureSet):
    """Face crops with landmarks and people.

    pictures (N, 3, S, S) uint8 RGB; landmarks (N, 5, 2) float32 px of the crop; identities (N,)
    int64, 0..P-1 without gaps; names: N x "person/picture", without suffix; skipped: which
    pictures a reader left out, and why; checksums: N x (bytes, CRC-32) of the file, if any.
    """

    pictures: torch.Tensor | PictureFiles
    landmarks: torch.Tensor
    identities: torch.Tensor
    names: list[str]
    skipped: list[str] = field(default_factory=list)
    checksums: list[tuple] = field(default_factory=list)

    def tables(self):
        return [self.landmarks, self.identities]

    def floats(self):
        """All pictures in [-1, 1], converted when indexed, like a tensor (N, 3, S, S)."""
        return Floats(self.pictures)

    def select(self, indices, mirror):
        """Faces (B, 3, S, S) uint8, their landmarks (B, 5, 2) px and identities (B,) int64.

        indices: (B,) int64. mirror: (B,) bool.
        """
        points = self.landmarks[indices]  # (B, 5, 2)
        flipped = points[:, MIRROR_ORDER]
        flipped[..., 0] = self.pictures.shape[3] - flipped[..., 0]
        points = torch.where(mirror[:, None, None], flipped, points)
        return self.flipped(indices, mirror), points, self.identities[indices]


@dataclass
class ActionSet(_PictureSet):
    """Action frames of one size.

    pictures (N, 3, H, W) uint8 RGB. Lists with one entry per frame: boxes (n, 4) px of the people,
    clipped to the frame; labels (n,) int64, 1 to len(classes), 0 is the background; face_boxes
    (k, 4) px, not clipped, k may be 0; names. classes: `classes[label - 1]` is the action's name.
    skipped, checksums: as in `FaceSet`. Computed: regions, one entry per frame, (k, 4) px, the
    squares of `crop_sampler.face_squares` for face_boxes and `face_scale` (Sec. 5.2).
    """

    pictures: torch.Tensor | PictureFiles
    boxes: list
    labels: list
    face_boxes: list
    names: list[str]
    classes: list[str]
    skipped: list[str] = field(default_factory=list)
    checksums: list[tuple] = field(default_factory=list)
    face_scale: float = FACE_SCALE
    regions: list = field(init=False, default_factory=list)

    def __post_init__(self):
        size = self.pictures.shape[2:]
        self.boxes = [clip_boxes_to_image(boxes, size) for boxes in self.boxes]
        self.regions = [face_squares(boxes, self.face_scale) for boxes in self.face_boxes]

    def tables(self):
        return [*self.boxes, *self.labels, *self.face_boxes]

    def select(self, indices, mirror):
        """Frames (B, 3, H, W) uint8, targets and regions r_v.

        Targets: B x {"boxes": (n, 4) px, "labels": (n,) int64}. Regions: B x (k, 4) px, the squares
        around the faces. indices: (B,) int64. mirror: (B,) bool.
        """
        width = self.pictures.shape[3]
        targets = []
        regions = []
        for i, flip in zip(indices.tolist(), mirror.tolist()):
            boxes = self.boxes[i]
            squares = self.regions[i]
            if flip:
                boxes = mirrored(boxes, width)
                squares = mirrored(squares, width)
            targets.append({"boxes": boxes, "labels": self.labels[i]})
            regions.append(squares)
        return self.flipped(indices, mirror), targets, regions


@dataclass
class Pairs:
    """P verification pairs of a FaceSet. dropped: those left out by `find_pairs`."""

    first: torch.Tensor  # (P,) int64, positions in the set
    second: torch.Tensor
    same: torch.Tensor  # (P,) bool
    folds: torch.Tensor  # (P,) int64, from 0
    dropped: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.same)


# ---------------------------------------------------------------- batches


@dataclass
class BatchSampler(Sampler):
    """Endless batches that depend on the seed and the step alone: resuming needs the step only.

    Every epoch is a new permutation without its incomplete last batch; each item is flipped left
    to right half of the time (SphereFace's only augmentation). Raises ValueError for a batch_size
    that is out of range or not a multiple of world_size.
    """

    count: int  # items in the set
    batch_size: int  # 1 to `count`, total of all processes
    seed: int  # any whole number
    start: int = 0  # the step, from 0, at which iteration begins
    rank: int = 0  # of this process
    world_size: int = 1  # number of processes

    def __post_init__(self):
        size = self.batch_size
        if not 1 <= size <= self.count:
            raise ValueError(f"batch_size is {size}: give 1 to {self.count}, the items in the set")
        if size % self.world_size:
            fault = f"{self.world_size} processes cannot share a batch of {size} equally"
            raise ValueError(f"{fault}: give batches that {self.world_size} divides")
        self.epoch = None  # of self.order and self.mirror, each (count,)

    def batch(self, step: int):
        """Indices (B,) int64 and mirror flags (B,) bool of the whole batch of a step, from 0."""
        epoch, number = divmod(step, self.count // self.batch_size)
        if epoch != self.epoch:
            generator = np.random.default_rng((self.seed % 2**64, epoch))
            self.order = torch.from_numpy(generator.permutation(self.count))
            self.mirror = torch.from_numpy(generator.random(self.count) < 0.5)
            self.epoch = epoch
        batch = slice(number * self.batch_size, (number + 1) * self.batch_size)
        return self.order[batch], self.mirror[batch]

    def __iter__(self):
        """Yield this process's part of each batch, a list of (index, mirrored)."""
        size = self.batch_size // self.world_size
        part = slice(self.rank * size, (self.rank + 1) * size)
        for step in itertools.count(self.start):
            indices, mirror = self.batch(step)
            yield list(zip(indices[part].tolist(), mirror[part].tolist()))


def batches(data, batch_size: int, seed: int, start: int = 0, device="cpu"):
    """Yield what `data.batch` returns, endlessly, in the order of a `BatchSampler`.

    data: FaceSet or ActionSet. batch_size, seed, start: see `BatchSampler`; each process gets its
    own part. device: for the pictures. A lazy set's batches are prefetched by as many workers as it
    has decoding threads (`--workers`), at most 4 and one per core.
    """
    processes = (optim.rank(), optim.world_size())
    loader = DataLoader(
        data,
        batch_sampler=BatchSampler(len(data), batch_size, seed, start, *processes),
        num_workers=min(data.pictures.threads, folders.cores(), MAX_LOADERS) if data.lazy else 0,
        collate_fn=tuple,  # keep the batch as it is
        pin_memory=torch.device(device).type == "cuda",
        worker_init_fn=_set_signals,
        generator=torch.Generator(),  # or it would use the global random state
    )
    for pictures, *rest in loader:
        if isinstance(pictures, DataError):
            raise pictures
        yield to_floats(pictures, device), *rest


def _set_signals(worker):
    """Ignore Ctrl-C in a worker: the main process gets it too, but first finishes its step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a DataLoader ends its workers with it


class KeptOutputs(nn.Module):
    """The last `capacity` outputs of M and their originals, S = `size` px, in 8 bits.

    A module, so that checkpoints save them.
    """

    def __init__(self, capacity: int, size: int):
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))  # faces ever added
        self.register_buffer("pictures", torch.zeros(capacity, 3, size, size, dtype=torch.uint8))
        self.register_buffer("modified", torch.zeros(capacity, 3, size, size, dtype=torch.uint8))
        self.register_buffer("landmarks", torch.zeros(capacity, 5, 2))
        self.register_buffer("identities", torch.zeros(capacity, dtype=torch.int64))

    def add(self, pictures, modified, landmarks, identities) -> None:
        """Store a batch in place of the oldest faces."""
        at = (self.count + torch.arange(len(pictures))) % len(self.pictures)  # (B,)
        for kept, new in ((self.pictures, pictures), (self.modified, modified)):
            kept[at] = ((new.detach() + 1) * 127.5).round().byte().cpu()  # (B, 3, S, S)
        self.landmarks[at] = landmarks.cpu()
        self.identities[at] = identities.cpu()
        self.count += len(pictures)

    def draw(self, number: int) -> tuple:
        """Random stored faces: pictures, modified (n, 3, S, S), landmarks (n, 5, 2), identities."""
        at = torch.randint(min(int(self.count), len(self.pictures)), (number,))  # (n,)
        pictures = self.pictures[at] / 127.5 - 1
        modified = self.modified[at] / 127.5 - 1
        return pictures, modified, self.landmarks[at], self.identities[at]


# ---------------------------------------------------------------- the toy world


def toy_faces(seed: int, identities: range, pictures_each: int, size: int = 64) -> FaceSet:
    """Draw `pictures_each` faces of each person; the range's first person gets identity 0."""
    world = ToyWorld(seed)
    keys = list(itertools.product(identities, range(pictures_each)))
    drawn = [world.face(person, number, size) for person, number in keys]
    return FaceSet(
        _stack(drawn),
        torch.from_numpy(np.stack([face.landmarks for face in drawn])),
        torch.arange(len(identities)).repeat_interleave(pictures_each),
        [f"toy_{i:04d}/toy_{i:04d}_{n + 1:04d}" for i, n in keys],  # as in LFW
    )


def toy_pose(seed: int, number: int, identities: range, size: int) -> torch.Tensor:
    """All people in pose `number`, (P, 3, S, S) in [-1, 1]."""
    world = ToyWorld(seed)
    return _stack([world.pose(person, number, size) for person in identities]) / 127.5 - 1


def toy_actions(seed: int, count: int, size: int, identities: range, start: int = 0) -> ActionSet:
    """Draw `count` scenes of size x size px: one person does all actions, then the next does.

    A test set needs other `identities`, and a `start` (first scene's number) after the training's.
    """
    world = ToyWorld(seed)
    people = [identities[i // len(ACTIONS) % len(identities)] for i in range(count)]
    scenes = [
        world.scene(i % len(ACTIONS), person, start + i, size) for i, person in enumerate(people)
    ]
    return ActionSet(
        _stack(scenes),
        [torch.from_numpy(scene.box)[None] for scene in scenes],
        [torch.tensor([scene.label]) for scene in scenes],
        [_face_boxes(scene) for scene in scenes],
        [f"toy_{person:04d}/toy_{start + i:05d}" for i, person in enumerate(people)],
        list(ACTIONS),
    )


def _face_boxes(scene):
    """A scene's face box, (1, 4) px; (0, 4) if it has none."""
    return torch.zeros(0, 4) if scene.face_box is None else torch.from_numpy(scene.face_box)[None]


def toy_pairs(face_set: FaceSet, folds: int, per_fold: int, seed: int = 0) -> Pairs:
    """Draw pairs as in LFW: a fold has `per_fold` pairs of one person and `per_fold` of two.

    No pair is repeated. If the set is large enough, no person is in two folds (as in LFW); in a
    smaller set, folds share people. Raises DataError if it is too small for that, too.
    """
    generator = torch.Generator().manual_seed(seed)
    needed = folds * per_fold
    pairs = torch.triu_indices(len(face_set), len(face_set), 1)  # (2, every pair)
    people = face_set.identities[pairs]
    same = people[0] == people[1]
    person_fold = torch.randperm(int(people.max()) + 1, generator=generator) % folds
    first, second = person_fold[people]
    pair_fold = torch.where(first == second, first, folds)  # `folds`: in none
    pools = []
    for kind, who in ((True, "one person"), (False, "two people")):
        pool = (same == kind).nonzero()[:, 0]
        pools.append(pool[torch.randperm(len(pool), generator=generator)])
        if len(pool) < needed:
            fault = f"the set has {len(pool)} pairs of {who} but needs {needed}"
            raise DataError(f"toy_pairs: {fault}; draw more people or pictures")
    parts = [pool[pair_fold[pool] == fold][:per_fold] for pool in pools for fold in range(folds)]
    if min(map(len, parts)) < per_fold:  # a fold cannot be filled from its own people
        parts = [part for pool in pools for part in pool.split(per_fold)[:folds]]
    index = torch.cat(parts)  # (2 * folds * per_fold,)
    fold = torch.arange(folds).repeat_interleave(per_fold).repeat(2)
    return Pairs(*pairs[:, index], same[index], fold)


def _stack(drawn):
    pictures = np.stack([drawing.image for drawing in drawn])  # (N, H, W, 3)
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous()


# ---------------------------------------------------------------- folders of pictures


def read_faces(
    folder,
    landmarks_csv,
    size: int,
    people: int = 0,
    pictures_each: int = 0,
    face_scale=FACE_SCALE,
    **options,
) -> FaceSet:
    """Read the pictures folder/person/picture, people sorted by name, with five landmarks each.

    Args:
        landmarks_csv: A table with `file`, relative to `folder` or to the table's own folder, and x
            and y of the five points. If it also has face boxes (x_min ... y_max), their squares are
            cut out (for original LFW); if not, the pictures must be square crops.
        size: Side of the crops, px.
        people, pictures_each: Read at most this many, 0 = all.
        face_scale: Side of the square / longer side of the box.
        options: on_bad, memory, workers of `folders.read_pictures`.
    """
    rows = folders.landmark_rows(folder, landmarks_csv)
    offered = folders.offered_faces(Path(folder), rows, people, pictures_each)
    look = partial(folders.look_at_face, folder, rows, size, face_scale)
    images, landmarks, read = folders.read_pictures(folder, offered, look, (size, size), **options)
    owners = [person_of(name) for name in read["names"]]
    number = {person: i for i, person in enumerate(dict.fromkeys(owners))}
    read["names"] = [Path(name).with_suffix("").as_posix() for name in read["names"]]
    identities = torch.tensor([number[person] for person in owners])
    return FaceSet(images, torch.from_numpy(np.stack(landmarks)), identities, **read)


def read_actions(
    folder,
    annotations_csv,
    faces_csv,
    split: str,
    frame_size,
    limit: int = 0,
    face_scale=FACE_SCALE,
    **options,
) -> ActionSet:
    """Read the frames of one split, scaled to fit frame_size (H, W) and padded with gray.

    Args:
        annotations_csv: A table with file (relative to `folder`), split, action, width, height and
            a person box, one row per person. Classes: the sorted actions of all splits.
        faces_csv: A table with file and a face box; any number of rows per file.
        limit: Read only this many frames, evenly spaced, 0 = all.
        face_scale: As in `ActionSet`.
        options: on_bad, memory, workers of `folders.read_pictures`.
    """
    frames = folders.annotated_frames(annotations_csv, faces_csv)
    if split == "test" and all(len(frame.faces) == 1 for frame in frames.values()):
        files.print_progress(f"{faces_csv}: no face, so no frame is anonymized", True)
    offered = folders.offered_frames(frames, split, limit, annotations_csv)
    look = partial(folders.look_at_frame, folder, frames, annotations_csv, frame_size)
    pictures, scales, read = folders.read_pictures(folder, offered, look, frame_size, **options)
    kept = [frames[name] for name in read["names"]]
    classes = folders.action_names(annotations_csv, frames, kept if split == "train" else ())
    label = {action: i for i, action in enumerate(classes, 1)}
    return ActionSet(
        pictures,
        [torch.cat(frame.boxes) * scale for frame, scale in zip(kept, scales)],
        [torch.tensor([label[action] for action in frame.actions]) for frame in kept],
        [torch.cat(frame.faces) * scale for frame, scale in zip(kept, scales)],
        classes=classes,
        face_scale=face_scale,
        **read,
    )


def read_pairs(pairs_txt, face_set: FaceSet) -> Pairs:
    """Read pairs in LFW's format and find them in `face_set`, see `files.find_pairs`."""
    kept, dropped = find_pairs(pairs_txt, face_set.names)
    first, second, same, fold = torch.tensor(kept).T  # 4 x (P,)
    return Pairs(first, second, same.bool(), fold, dropped)
