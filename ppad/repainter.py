"""Finds, follows and repaints the faces of a picture or of a movie's frames; a person has to be able to trust it.

It is the paper's preparation (Sec. 4: find faces; Sec. 5.2: enlarge their boxes 1.6 times) and its
v' = v - r_v + M(r_v) (Sec. 3.1) around any anonymizer, M or a hand-made one, and between the two `tracks`, so that a
face missed in a frame is covered all the same. It works on arrays of uint8 RGB and knows nothing of files:

    person = Anonymizer.from_run("runs/photo")
    after = person.picture(before)                      # (H, W, 3) -> the same
    for after in person.frames(movie_frames): ...       # an iterable -> a generator, a few frames later

It fails closed: a frame that cannot be searched or repainted (a box that is not finite, memory that runs out) raises, or is
made black if asked. What was not searched never comes out.
"""

import itertools
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ppad.baselines import make_baseline
from ppad.crop_sampler import crop_faces, enlarge_boxes, paste_faces
from ppad.face_finder import FaceFinder
from ppad.loop import read_checkpoint
from ppad.movies import rgb
from ppad.mtcnn import MTCNN, MTCNNConfig
from ppad.ssh import SSH
from ppad.tracks import Steady, Tracker

METHODS = {
    "blur": "Blur(8x8)",
    "mask": "Masked",
    "noise": "Noise(0.5)",
    "edge": "Edge",
    "superpixel": "Super-Pixel",
}
SHIPPED = (
    Path(__file__).parent / "weights" / "modifier.pt"
)  # what it is and how far to trust it: modifier.md beside it
BASELINE_SIZE = 128  # ours: px of a crop for a method that has no size of its own
RECALL = (
    0.5,
    0.6,
    0.6,
)  # ours: each of MTCNN's thresholds 0.1 lower, since a miss costs more than a false face
SMALLEST_FACE = 20.0  # MTCNN's own default, px
FRAMES_AT_ONCE = 6  # ours: searched together; few, as a movie may be large
LOOKS_A_SECOND = 5  # ours: how often SSH looks at a movie; MTCNN looks at every frame
CROPS_AT_ONCE = 16  # ours: repainted together


class Anonymizer:
    """Finds, follows and repaints faces.

    anonymizer: any callable (B, 3, S, S) in [-1, 1] -> same; finder: any callable that takes a list of (H, W, 3) uint8
    frames and gives their face boxes, a list of (k, 4) xyxy px (None: `default_finder()`); if it has an `at_rate`, that
    is asked for the finder of a movie; size: S; steady: how far to look in movies; on_error: "stop" raises ValueError when a
    frame cannot be searched or repainted, "cover" blackens that frame; workers: batches of a movie searched side by side,
    by a finder that threads may share. After
    `picture` or `frames`, `summary` tells what was done.
    """

    def __init__(
        self,
        anonymizer,
        finder=None,
        size=BASELINE_SIZE,
        steady=Steady(),
        on_error="stop",
        device="cpu",
        workers=1,
    ):
        if on_error not in ("stop", "cover"):
            raise ValueError(f"on_error is {on_error!r}: choose stop or cover")
        self.anonymizer, self.size, self.steady, self.on_error, self.device = (
            anonymizer,
            size,
            steady,
            on_error,
            device,
        )
        self.finder, self.workers = (
            default_finder(device=device) if finder is None else finder,
            workers,
        )
        self.summary = {}

    @classmethod
    def from_run(cls, run=None, device="cpu", **settings):
        """With M of a finished run's folder (`ppad.reproduce` leaves its networks in players.pt), or, without one, with the
        M that comes with the package. ValueError or LoopError when there is none."""
        from ppad import (
            config,
            trainer,
        )  # here, as the players and figures take long to load, and a blur needs none

        path = SHIPPED if run is None else Path(run) / "players.pt"
        held = read_checkpoint(path)
        try:
            fields = config.Paper(**held["config"])
            modifier = trainer.make_modifier(fields)
            modifier.load_state_dict(
                held["parts"]["modifier"]
            )  # kept in half precision, used in single
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"{path} does not hold M of this version: run ppad.reproduce again in a new folder"
            ) from error
        modifier = modifier.to(device).eval().requires_grad_(False)
        return cls(modifier, size=fields.face_size, device=device, **settings)

    @classmethod
    def from_method(cls, method, **settings):
        """With a hand-made anonymizer, one of METHODS."""
        if method not in METHODS:
            raise ValueError(f"method {method!r} is unknown: choose one of {', '.join(METHODS)}")
        return cls(make_baseline(METHODS[method]), **settings)

    def picture(self, image):
        """One picture, a (H, W, 3) uint8 array -> the same with its faces repainted; or a Pillow picture -> one
        without metadata. ValueError when it cannot be searched or repainted."""
        if isinstance(image, Image.Image):
            return Image.fromarray(self.picture(rgb(image)))
        (single,) = self._run([image], Tracker(Steady(0, 0, 0)), self.finder)
        return single

    def frames(self, frames, rate=None):
        """A movie's frames, an iterable of (H, W, 3) uint8 arrays of one size -> a generator of as many.

        rate: frames a second; None where neighbours need not look alike, so that each is searched as a picture is.

        Each comes `steady.delay` frames after it was read, so that many, and `workers` + 1 batches more, are in memory.
        """
        at_rate = getattr(self.finder, "at_rate", None)
        return self._run(
            frames, Tracker(self.steady), at_rate(rate) if rate and at_rate else self.finder
        )

    def _run(self, frames, tracker, finder):
        waiting, blind = deque(), set()  # blind: frames that nobody could search or repaint
        for batch, found in self._searched(self._checked(frames), finder):
            for frame, boxes in zip(batch, found):
                if boxes is None:
                    blind.add(tracker.pushed)
                tracker.push(np.zeros((0, 4)) if boxes is None else boxes)
                waiting.append(frame)
            if len(batch) < FRAMES_AT_ONCE:  # the last one, maybe empty
                tracker.finish()
            while tracker.ready():
                number, frame, boxes = tracker.frames, waiting.popleft(), tracker.pop()
                if number in blind:
                    painted = np.zeros_like(frame)
                else:
                    painted = self._guarded(lambda: self._paint(frame, boxes), number, "repainted")
                    if painted is None:
                        blind.add(number)
                        painted = np.zeros_like(frame)
                self.summary = {**tracker.counts(), "frames_covered_whole": len(blind)}
                yield painted

    def _searched(self, frames, finder):
        """(frames, their boxes) batch by batch, the next `workers` being searched while the caller repaints this one. The
        last batch is shorter than FRAMES_AT_ONCE."""
        with ThreadPoolExecutor(self.workers) as pool:
            searches, number, more = deque(), 0, True
            while more or searches:
                if more:
                    batch = list(itertools.islice(frames, FRAMES_AT_ONCE))
                    searches.append((batch, pool.submit(self._find, batch, number, finder)))
                    number, more = number + len(batch), len(batch) == FRAMES_AT_ONCE
                if len(searches) > self.workers or not more:
                    batch, search = searches.popleft()
                    yield batch, search.result()

    @staticmethod
    def _checked(frames):
        """The frames as arrays. ValueError unless (H, W, 3) uint8, all of one size."""
        size = None
        for frame in map(np.asarray, frames):
            size = size or frame.shape
            if frame.shape != size or len(size) != 3 or size[2] != 3 or frame.dtype != np.uint8:
                raise ValueError(
                    f"a frame is {frame.shape} {frame.dtype}: give (H, W, 3) uint8, of one size"
                )
            yield frame

    def _find(self, batch, number, finder):
        """Boxes (k, 4) numpy of each frame; None for one that cannot be searched, if such frames are to be covered."""

        def search(frames):
            found = [
                np.asarray(torch.as_tensor(boxes).cpu(), np.float64).reshape(-1, 4)
                for boxes in finder(frames)
            ]
            if len(found) != len(frames):
                raise ValueError(f"the finder answered for {len(found)} of {len(frames)} frames")
            if not all(np.isfinite(boxes).all() for boxes in found):
                raise ValueError("the finder gave a box that is not finite")
            return [
                boxes[(boxes[:, 2:] > boxes[:, :2]).all(1)] for boxes in found
            ]  # no area: there is nothing in it

        if not batch:
            return []
        found = self._guarded(lambda: search(batch), number, "searched")
        if found is None and len(batch) > 1:  # one bad frame, or too many at once: each by itself
            return [self._find([frame], number + i, finder)[0] for i, frame in enumerate(batch)]
        return [None] if found is None else found

    def _guarded(self, work, number, done):
        """work(), or None where it fails and frames may be covered; else ValueError with the frame's number."""
        try:
            with torch.inference_mode():
                return work()
        except (
            RuntimeError,
            MemoryError,
            ValueError,
            IndexError,
            TypeError,
        ) as error:  # out of memory is a RuntimeError
            if self.on_error == "cover":
                return None
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ValueError(
                f"frame {number} cannot be {done} ({reason}): nothing was written; --on_error cover blackens "
                "such frames"
            ) from error

    def _paint(self, frame, boxes):
        """frame (H, W, 3) uint8 with what is in 1.6 times the boxes (k, 4) repainted; elsewhere its bits are kept."""
        height, width = frame.shape[:2]
        boxes = torch.as_tensor(boxes, dtype=torch.float32)
        boxes = boxes[
            (boxes[:, 0] < width) & (boxes[:, 1] < height) & (boxes[:, 2:] > 0).all(1)
        ]  # not wholly outside
        if not len(boxes):
            return frame
        boxes = enlarge_boxes(boxes, (height, width))  # (k, 4)
        # Largest last, so on top: a small box must not show again, finer, what a large one has hidden.
        boxes = boxes[(boxes[:, 2:] - boxes[:, :2]).prod(1).argsort()]
        # Only a window about each box is made floating point. One pixel more: crops look that far over the rim.
        low, high = (boxes[:, :2].floor().long() - 1).clamp(min=0), boxes[:, 2:].ceil().long() + 1
        windows = [
            (slice(y0, y1), slice(x0, x1))
            for (x0, y0), (x1, y1) in zip(low.tolist(), high.tolist())
        ]
        inside = [
            (box - corner.repeat(2))[None] for box, corner in zip(boxes, low)
        ]  # k times (1, 4)
        crops = torch.cat(
            [
                crop_faces(self._pixels(frame[window]), [box], self.size)
                for window, box in zip(windows, inside)
            ]
        )  # (k, 3, S, S)
        crops = torch.cat([self.anonymizer(part) for part in crops.split(CROPS_AT_ONCE)])
        if not crops.isfinite().all():
            raise ValueError("the anonymizer gave pixels that are not finite")
        painted = frame.copy()
        for window, box, crop in zip(windows, inside, crops.clamp(-1, 1)):
            pasted = paste_faces(self._pixels(painted[window]), crop[None], [box])  # (1, 3, h, w)
            painted[window] = (
                ((pasted[0] + 1) * 127.5)
                .round()
                .clamp(0, 255)
                .byte()
                .permute(1, 2, 0)
                .cpu()
                .numpy()
            )
        return painted

    def _pixels(self, window):
        return (
            torch.tensor(window, device=self.device).permute(2, 0, 1)[None] / 127.5 - 1
        )  # (1, 3, h, w)


class RecallFinder:
    """Frames to boxes by a `FaceFinder`, its SSH looking at the first of them and at every `every`-th after it."""

    def __init__(self, faces, every=1):
        self.faces, self.every = faces, every

    def __call__(self, frames):
        return [found["boxes"] for found in self.faces.find(frames, self.every)]

    def at_rate(self, rate):
        """The finder for a movie of `rate` frames a second: SSH, which takes as long as MTCNN, looks LOOKS_A_SECOND times a
        second, at least once in FRAMES_AT_ONCE. What it alone finds is followed through the frames between, and held; a face
        that MTCNN misses and that is in view for less than that may stay as it is."""
        return RecallFinder(self.faces, max(1, round(rate / LOOKS_A_SECOND)))


def default_finder(min_face=SMALLEST_FACE, device="cpu"):
    """A finder set to miss little: what MTCNN (at RECALL) or SSH finds, MTCNN alone where SSH has no weights."""
    mtcnn = MTCNN.load(config=MTCNNConfig(min_face=min_face, thresholds=RECALL)).to(device)
    try:
        ssh = SSH.load().to(device)
    except ValueError:
        return RecallFinder(FaceFinder(mtcnn=mtcnn, rule="mtcnn"))
    return RecallFinder(FaceFinder(mtcnn=mtcnn, ssh=ssh, rule="either"))
