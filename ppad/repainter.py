"""Find, track and repaint the faces of a picture or a movie.

As in the paper, faces are found (Sec. 4), their boxes are enlarged 1.6 times (Sec. 5.2), and they
are repainted, v' = v - r_v + M(r_v) (Sec. 3.1), by M or any other anonymizer. `tracks` follows the
faces, so that one missed in a frame is still covered. Frames are uint8 RGB arrays; files are read
and written elsewhere:

    person = Anonymizer.from_run("runs/photo")
    after = person.picture(before)                      # (H, W, 3) -> the same
    for after in person.frames(movie_frames): ...       # an iterable -> a generator

It fails closed: a frame that cannot be searched or repainted (a box is not finite, memory runs out)
raises an error, or is blackened on request. A frame that was not searched is never returned.
"""

import itertools
import math
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from ppad.baselines import make_baseline
from ppad.crop_sampler import FACE_SCALE, face_squares, repaint
from ppad.files import atomic_path, to_rgb
from ppad.mtcnn import joined
from ppad.ssh import default_finder
from ppad.tracks import Steady, Tracker

METHODS = {
    "blur": "Blur(8x8)",
    "mask": "Masked",
    "noise": "Noise(0.5)",
    "edge": "Edge",
    "superpixel": "Super-Pixel",
}
SHIPPED = Path(__file__).parent / "weights" / "modifier.pt"  # see modifier.md beside it
FRAMES_AT_ONCE = 6  # ours: searched as one batch; few, as frames may be large
LOOKS_A_SECOND = 5  # ours: how often both detectors search a movie, at least
FEATHER = 0.1  # ours: share of a square 1.6 times the face; the face itself is replaced fully
# Ours, the preview's: columns, most frames of a kind, px of a frame and a title, most tracks.
SHEET_COLUMNS = 4
SAMPLES = 24
SHEET_WIDTH = 240
TITLE = 20
CROPS = 200
# What a frame can raise; out of memory is a RuntimeError.
FAILURES = (RuntimeError, MemoryError, ValueError, IndexError, TypeError)


@dataclass(eq=False)
class Anonymizer:
    """Finds, tracks and repaints faces.

    After `picture`, and after each of `frames`, `summary` holds the counts so far, and `shown` the
    faces of the frame just returned: [(track number, box (4,) before it is enlarged)].

    Args:
        anonymizer: any callable (B, 3, S, S) in [-1, 1] -> the same. S is its `.size`;
            without one it is called once a face, on the frame's own pixels. Faces below its
            `.smallest`, which it would not change, are blackened. Its method `.next_frame`, if any
            (see `players.Exchanger`), is called instead, so that a person keeps one new face.
        finder: any callable from a list of (H, W, 3) uint8 frames to their face boxes, a list of
            (k, 4) xyxy px. Its method `follow`, if any, is used for successive frames of a movie.
            Its method `closely`, if any, is used for pictures, and in movies LOOKS_A_SECOND times a
            second: around the boxes (k, 4) of lost faces, its second argument, or everywhere if
            no face is found. None: `default_finder()`.
        steady: how faces are tracked in movies.
        on_error: "stop" raises ValueError when a frame cannot be searched or repainted, "cover"
            blackens that frame.
        workers: batches of a movie searched at the same time, in threads that share the finder.
        feather: share of a repainted square, at each edge, that fades into the frame.
        face_scale: side of that square over the longer side of the face's box.
    """

    anonymizer: Callable
    finder: Callable | None = None
    steady: Steady = Steady()
    on_error: str = "stop"
    device: str = "cpu"
    workers: int = 1
    feather: float = 0.0
    face_scale: float = FACE_SCALE

    def __post_init__(self):
        if self.on_error not in ("stop", "cover"):
            raise ValueError(f"on_error is {self.on_error!r}: choose stop or cover")
        if self.finder is None:
            self.finder = default_finder(device=self.device)
        self.summary = {}
        self.shown = []
        self.seconds = math.inf  # from one frame to the next
        self.states = {}  # track number -> the state that `next_frame` returned last

    @classmethod
    def from_run(cls, run=None, device="cpu", **settings):
        """Use M of a finished run's folder; without one, the shipped M.

        Raises the errors of `load_modifier`, and ValueError if `run` is a file.
        """
        if run is not None and Path(run).is_file():
            raise ValueError(f"run {run} is a file: name the folder of a finished ppad.reproduce")
        modifier, config = load_modifier(SHIPPED if run is None else Path(run) / "players.pt")
        settings = {"feather": FEATHER, "face_scale": config.face_scale, **settings}
        return cls(modifier.to(device), device=device, **settings)

    @classmethod
    def from_method(cls, method, **settings):
        """Use a hand-made anonymizer, one of METHODS. ValueError for another name."""
        if method not in METHODS:
            raise ValueError(f"method {method!r} is unknown: choose one of {', '.join(METHODS)}")
        return cls(make_baseline(METHODS[method]), **settings)

    def picture(self, image):
        """Repaint the faces of a picture, (H, W, 3) uint8.

        A Pillow picture gives one without metadata. ValueError if it cannot be searched or
        repainted.
        """
        if isinstance(image, Image.Image):
            return Image.fromarray(self.picture(np.array(to_rgb(image))))
        finder = getattr(self.finder, "closely", self.finder)
        (single,) = self._run([image], Tracker(Steady(0, 0, 0)), finder)
        return single

    def frames(self, frames, rate=None):
        """Yield a movie's frames with their faces repainted.

        A frame is returned `steady.at_rate(rate).delay` frames after it was read; that many frames
        and `workers` + 1 batches are in memory.

        frames: iterable of (H, W, 3) uint8 arrays of one size. rate: frames a second; None if
        successive frames may look different, so that each is searched like a picture. Raises
        ValueError for a frame of another shape, or one that cannot be searched or repainted.
        """
        closely = getattr(self.finder, "closely", None)
        if rate is None:
            return self._run(frames, Tracker(self.steady), closely or self.finder)
        follow = getattr(self.finder, "follow", self.finder)
        at_once = min(max(round(rate / LOOKS_A_SECOND), 1), FRAMES_AT_ONCE)
        tracker = Tracker(self.steady.at_rate(rate))
        return self._run(frames, tracker, follow, closely, at_once, 1 / rate)

    def _run(self, frames, tracker, finder, closely=None, at_once=FRAMES_AT_ONCE, seconds=math.inf):
        self.seconds = seconds
        self.states = {}
        waiting = deque()  # (frame, whether it could be searched) of those not yet popped
        covered = 0
        for batch, detections in self._searched(checked(frames), finder, at_once):
            for i, frame in enumerate(batch):
                if closely and i == len(batch) - 1:
                    detections[i] = self._look_closely(frame, detections, tracker, closely)
                waiting.append((frame, detections[i] is not None))
                tracker.push(np.zeros((0, 4)) if detections[i] is None else detections[i])
            if len(batch) < at_once:  # last batch, maybe empty
                tracker.finish()
            while tracker.ready():
                frame, searched = waiting.popleft()
                boxes = tracker.pop()
                painted = None
                if searched:
                    number = tracker.frames - 1
                    painted = self._try(
                        "repainted", number, self._paint, frame, boxes, tracker.shown
                    )
                if painted is None:
                    covered += 1
                    painted = np.zeros_like(frame)
                self.shown = list(zip(tracker.shown, boxes))
                self.summary = {**tracker.counts(), "frames_covered_whole": covered}
                yield painted

    def _searched(self, frames, finder, at_once):
        """Yield (frames, boxes) of each batch, while the next `workers` are searched.

        The last batch is shorter than `at_once`.
        """
        searches = deque()
        with ThreadPoolExecutor(self.workers) as pool:
            for number in itertools.count(0, at_once):
                batch = list(itertools.islice(frames, at_once))
                searches.append((batch, pool.submit(self._find, batch, number, finder)))
                is_last = len(batch) < at_once
                while len(searches) > (0 if is_last else self.workers):
                    batch, boxes = searches.popleft()
                    yield batch, boxes.result()
                if is_last:
                    return

    def _look_closely(self, frame, detections, tracker, closely):
        """Boxes (k, 4) of a batch's last frame; `detections` holds the boxes of each of its frames.

        Searches again around faces that the batch lost, and everywhere if it has none. A face
        found again is dropped, or it would get a second track and a second new face.
        """
        boxes = detections[-1]
        if boxes is None:
            return None
        lost = tracker.lost(boxes, len(detections))
        if len(lost):
            (extra,) = self._find([frame], tracker.pushed, lambda frames: closely(frames, lost))
            if extra is None:
                return None
            boxes = joined(boxes, extra)
        if len(boxes) or any(b is not None and len(b) for b in detections):
            return boxes
        return self._find([frame], tracker.pushed, closely)[0]

    def _find(self, batch, number, finder):
        """Boxes (k, 4) of each frame; None for one that failed (on_error "cover")."""
        if not batch:
            return []
        found = self._try("searched", number, search, finder, batch)
        if found is None and len(batch) > 1:  # one is bad, or they are too many: search each alone
            return [self._find([frame], number + i, finder)[0] for i, frame in enumerate(batch)]
        return [None] if found is None else found

    def _try(self, verb, number, work, *arguments):
        """Return work(*arguments). If it fails: None (on_error "cover") or ValueError."""
        try:
            with torch.inference_mode():
                return work(*arguments)
        except FAILURES as error:
            if self.on_error == "cover":
                return None
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            fault = f"frame {number} cannot be {verb} ({reason}): nothing was written"
            raise ValueError(f"{fault}; --on_error cover blackens such frames") from error

    def _paint(self, frame, boxes, tracks):
        """A copy of frame (H, W, 3) uint8, repainted in squares about the boxes (k, 4).

        tracks: the k track numbers of the boxes.
        """
        height, width = frame.shape[:2]
        boxes = torch.as_tensor(boxes, dtype=torch.float32)
        touches = (boxes[:, 0] < width) & (boxes[:, 1] < height) & (boxes[:, 2:] > 0).all(1)
        squares = face_squares(boxes[touches], self.face_scale)  # (k, 4)
        tracks = torch.tensor(tracks)[touches].tolist()
        painted = frame.copy()
        # Paint large ones last: a small one on top could show in more detail what they hide.
        for i in (squares[:, 2:] - squares[:, :2]).prod(1).argsort().tolist():
            self._paint_square(painted, squares[i], tracks[i])
        return painted

    def _paint_square(self, painted, square, track):
        """Repaint the face in one square (4,) of a frame (H, W, 3) uint8, in place.

        The anonymizer sees what is painted already, as it may keep pixels of a neighbor's face.
        """
        # Convert only a window to float: the square and 1 px around it, which crops also read.
        x0, y0, x1, y1 = square.tolist()
        left = max(0, math.floor(x0) - 1)
        top = max(0, math.floor(y0) - 1)
        window = (slice(top, math.ceil(y1) + 1), slice(left, math.ceil(x1) + 1))
        pixels = torch.tensor(painted[window], device=self.device)  # (h, w, 3) uint8
        before = pixels.permute(2, 0, 1)[None] / 127.5 - 1  # (1, 3, h, w)
        squares = [square[None] - torch.tensor([left, top, left, top])]  # (1, 4), in the window
        new_face = partial(self._new_face, track)
        new_face.size = getattr(self.anonymizer, "size", None)  # `repaint` reads it
        after = repaint(before, squares, new_face)  # (1, 3, h, w)
        if self.feather:
            weight = fade(square, window, painted.shape[:2], self.feather).to(before)  # (h, w)
            after = before * (1 - weight) + after * weight
        pixels = ((after[0] + 1) * 127.5).round().clamp(0, 255).byte()  # (3, h, w)
        painted[window] = pixels.permute(1, 2, 0).cpu().numpy()

    def _new_face(self, track, face):
        """Anonymize a face (1, 3, S, S); if M can, a whole track becomes one person.

        A face too small for a hand-made method is blackened. ValueError if not finite.
        """
        if face.shape[-1] < getattr(self.anonymizer, "smallest", 0):
            return torch.full_like(face, -1.0)
        if hasattr(self.anonymizer, "next_frame"):
            state = self.states.get(track)
            new, self.states[track] = self.anonymizer.next_frame(face, state, self.seconds)
        else:
            new = self.anonymizer(face)
        if not new.abs().amax().isfinite():
            raise ValueError("the anonymizer gave pixels that are not finite")
        return new.clamp(-1, 1)


def load_modifier(path):
    """Load M, in evaluation mode, and the preset from a run's players.pt.

    Raises LoopError if the file is missing, ValueError if it holds no M.
    """
    from ppad import config, loop, players  # slow to load; hand-made anonymizers need none

    saved = loop.read_checkpoint(path)
    try:
        fields = config.Paper(**saved["config"])
        modifier = players.make_modifier(fields)
        modifier.load_state_dict(saved["parts"]["modifier"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        fix = "run ppad.reproduce again in a new folder"
        raise ValueError(f"{path} does not hold M of this version: {fix}") from error
    return modifier.eval().requires_grad_(False), fields


def checked(frames):
    """Yield the frames as arrays. ValueError unless (H, W, 3) uint8, all of one size."""
    shape = None
    for frame in map(np.asarray, frames):
        shape = shape or frame.shape
        if frame.shape != shape or shape[2:] != (3,) or frame.dtype != np.uint8:
            got = f"a frame is {frame.shape} {frame.dtype}"
            raise ValueError(f"{got}: give (H, W, 3) uint8, of one size")
        yield frame


def search(finder, frames):
    """A finder's boxes that have an area, float64 (k, 4). ValueError for an invalid answer."""
    found = []
    for boxes in finder(frames):
        boxes = torch.as_tensor(boxes).cpu().double().reshape(-1, 4)
        if not boxes.isfinite().all():
            raise ValueError("the finder gave a box that is not finite")
        found.append(boxes[(boxes[:, 2:] > boxes[:, :2]).all(1)])
    if len(found) != len(frames):
        raise ValueError(f"the finder answered for {len(found)} of {len(frames)} frames")
    return found


def fade(box, window, frame_size, part):
    """Weights (h, w) of a window's pixels, 1 inside a box and falling to 0 at its edges.

    They do not fall at the frame's border: the face may continue beyond it.

    box: (4,) px of the frame; window: slices of its rows and columns; frame_size: (H, W); part:
    share of the box's side over which weights fall.
    """
    weights = []
    for pixels, length, low, high in zip(window, frame_size, box[[1, 0]], box[[3, 2]]):
        width = part * (high - low)
        low = low if low > 0 else -math.inf
        high = high if high < length else math.inf
        place = torch.arange(*pixels.indices(length)) + 0.5
        weights.append((torch.minimum(place - low, high - place) / width).clamp(0, 1))
    return weights[0][:, None] * weights[1]


# ---------------------------------------------------------------- the preview


class Samples:
    """Evenly spaced pictures of a sequence; of a long one, SAMPLES / 2 to SAMPLES."""

    def __init__(self):
        self.kept = []
        self.seen = 0
        self.every = 1

    def add(self, frame):
        if self.seen % self.every == 0:
            picture = Image.fromarray(frame)
            picture.thumbnail((SHEET_WIDTH, SHEET_WIDTH))
            self.kept.append(picture)
            if len(self.kept) > SAMPLES:
                self.kept = self.kept[::2]
                self.every *= 2
        self.seen += 1


class Sheet:
    """The preview, to find missed faces. Finished frames only, since originals would leak faces.

    It shows samples of all frames and of those in which nothing was found, and a crop of each of
    the first CROPS tracks at its largest, with small crops enlarged.
    """

    def __init__(self):
        self.file = 0  # number of the current file; each numbers its tracks from 0
        self.frames = Samples()
        self.empty = Samples()
        self.crops = {}  # (file, track) -> (area, picture)
        self.tracks = set()  # all (file, track), even without a crop

    def show(self, frame, faces):
        """Take in a frame (H, W, 3) uint8 and its faces [(track, box (4,))]."""
        self.frames.add(frame)
        if not faces:
            self.empty.add(frame)
        for track, box in faces:
            key = (self.file, track)
            self.tracks.add(key)
            size = box[2:] - box[:2]
            area = size.prod()
            largest, _ = self.crops.get(key, (0, None))
            if area < 1.5 * largest or not largest and len(self.crops) >= CROPS:
                continue
            half = size.max()  # of a window twice the face's side
            factor = max(1, int(half) // SHEET_WIDTH)  # Pillow refuses very large crops
            center = (box[:2] + box[2:]) / 2
            window = np.concatenate([center - half, center + half]) / factor
            crop = Image.fromarray(frame).reduce(factor).crop(window.tolist())
            self.crops[key] = (area, crop.resize((SHEET_WIDTH // 2, SHEET_WIDTH // 2)))

    def save(self, path):
        """Write the sheet as .png. Raises WriteError."""
        crops = [picture for _, picture in self.crops.values()]
        parts = [
            (f"1 of {self.frames.every} frames", self.frames.kept, SHEET_COLUMNS),
            (f"nothing found ({self.empty.seen} frames)", self.empty.kept, SHEET_COLUMNS),
            (f"{len(crops)} of {len(self.tracks)} tracks", crops, 2 * SHEET_COLUMNS),
        ]
        sheet = np.concatenate([grid(*part) for part in parts if part[1]])
        with atomic_path(path) as temporary:
            Image.fromarray(sheet).save(temporary, "PNG")


def grid(title, pictures, columns):
    """Pictures side by side below a title: an array (H, SHEET_COLUMNS * SHEET_WIDTH, 3)."""
    cell = SHEET_COLUMNS * SHEET_WIDTH // columns
    height = max(picture.height for picture in pictures)
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * cell, TITLE + rows * height), "white")
    ImageDraw.Draw(sheet).text((4, 4), title, "black")
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i % columns * cell, TITLE + i // columns * height))
    return np.array(sheet)
