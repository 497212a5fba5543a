"""Finds, follows and repaints the faces of a picture or of a movie's frames.

The paper's preparation (Sec. 4: find faces; Sec. 5.2: enlarge their boxes 1.6 times) and its
v' = v - r_v + M(r_v) (Sec. 3.1), with any anonymizer, M or a hand-made one. In between, `tracks`
follows the faces, so that one missed in a frame is covered all the same. Frames are arrays of
uint8 RGB; files are read and written elsewhere:

    person = Anonymizer.from_run("runs/photo")
    after = person.picture(before)                      # (H, W, 3) -> the same
    for after in person.frames(movie_frames): ...       # an iterable -> a generator

It fails closed: a frame that cannot be searched or repainted (a box that is not finite, memory that
runs out) raises, or is blackened if asked. What was not searched is never given back.
"""

import itertools
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torchvision.ops import box_iou

from ppad.baselines import make_baseline
from ppad.crop_sampler import crop_faces, enlarge_boxes, paste_faces
from ppad.face_finder import SAME_FACE, FaceFinder
from ppad.files import atomic_path, to_rgb
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
SHIPPED = Path(__file__).parent / "weights" / "modifier.pt"  # see modifier.md beside it
BASELINE_SIZE = 128  # ours: px of a crop for a method that has no size of its own
THRESHOLD = 0.6  # ours: MTCNN's thresholds lowered by 0.1, since a miss costs more
SMALLEST_FACE = 20.0  # MTCNN's own default, px
FRAMES_AT_ONCE = 6  # ours: searched together; few, as a movie may be large
LOOKS_A_SECOND = 5  # ours: how often SSH searches a movie; MTCNN searches every frame
CROPS_AT_ONCE = 16  # ours: repainted together
BRIGHT = 0.45  # ours: mean, of 1, to which shadows are lifted
GAMMA = 0.6
FEATHER = 0.1  # ours: of a square 1.6 times the face, so that the face itself is replaced whole
# Ours: the preview's columns and rows of frames, px of a frame and of a title, most tracks.
SHEET_COLUMNS = 4
SHEET_ROWS = 6
SHEET_WIDTH = 240
TITLE = 20
CROPS = 200
# What a frame can fail with; out of memory is a RuntimeError.
FAILURES = (RuntimeError, MemoryError, ValueError, IndexError, TypeError)


class Anonymizer:
    """Finds, follows and repaints faces.

    After `picture`, and after each of `frames`, `summary` holds the counts so far, and `shown` the
    faces of the frame just given back: [(number of the track, box (4,) before it is enlarged)].

    Args:
        anonymizer: any callable (B, 3, S, S) in [-1, 1] -> the same.
        finder: any callable from a list of (H, W, 3) uint8 frames to their face boxes, a list of
            (k, 4) xyxy px. If it has `at_rate(rate)`, that gives the finder for a movie; if it has
            `closely`, that is used for single pictures, and in movies LOOKS_A_SECOND times a second
            where a face is lost or none is found. None: `default_finder()`.
        size: S.
        steady: how far to look in movies.
        on_error: "stop" raises ValueError when a frame cannot be searched or repainted, "cover"
            blackens that frame.
        feather: part of a repainted square, at each edge, that fades into the frame.
        workers: batches of a movie searched at the same time, in threads that share the finder.
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
        feather=0.0,
    ):
        if on_error not in ("stop", "cover"):
            raise ValueError(f"on_error is {on_error!r}: choose stop or cover")
        self.anonymizer = anonymizer
        self.finder = default_finder(device=device) if finder is None else finder
        self.size = size
        self.steady = steady
        self.on_error = on_error
        self.device = device
        self.workers = workers
        self.feather = feather
        self.summary = {}
        self.shown = []

    @classmethod
    def from_run(cls, run=None, device="cpu", **settings):
        """With M of a finished run's folder (its players.pt), or with the M of this package.

        Raises LoopError where the file is missing, ValueError where it holds no M.
        """
        from ppad import config, players  # slow to load, and the other methods need neither

        path = SHIPPED if run is None else Path(run) / "players.pt"
        saved = players.load_players(path)
        try:
            fields = config.Paper(**saved["config"])
            modifier = players.make_modifier(fields)
            modifier.load_state_dict(saved["parts"]["modifier"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            fix = "run ppad.reproduce again in a new folder"
            raise ValueError(f"{path} does not hold M of this version: {fix}") from error
        modifier = modifier.to(device).eval().requires_grad_(False)
        settings = {"feather": FEATHER, **settings}
        return cls(modifier, size=fields.face_size, device=device, **settings)

    @classmethod
    def from_method(cls, method, **settings):
        """With a hand-made anonymizer, one of METHODS. ValueError for another name."""
        if method not in METHODS:
            raise ValueError(f"method {method!r} is unknown: choose one of {', '.join(METHODS)}")
        return cls(make_baseline(METHODS[method]), **settings)

    def picture(self, image):
        """One picture, (H, W, 3) uint8, with its faces repainted.

        A Pillow picture gives a Pillow picture without metadata. ValueError when it cannot be
        searched or repainted.
        """
        if isinstance(image, Image.Image):
            return Image.fromarray(self.picture(np.array(to_rgb(image))))
        finder = getattr(self.finder, "closely", self.finder)
        (single,) = self._run([image], Tracker(Steady(0, 0, 0)), finder)
        return single

    def frames(self, frames, rate=None):
        """A movie's frames with their faces repainted.

        Each is given back `steady.at_rate(rate).delay` frames after it was read; so many, and
        `workers` + 1 batches more, are in memory.

        Args:
            frames: iterable of (H, W, 3) uint8 arrays of one size.
            rate: frames a second; None where neighbors need not look alike, so that each is
                searched as a picture is.

        Returns:
            A generator of as many frames.

        Raises:
            ValueError: a frame of another shape, or one that cannot be searched or repainted.
        """
        closely = getattr(self.finder, "closely", None)
        if rate is None:
            return self._run(frames, Tracker(self.steady), closely or self.finder)
        at_rate = getattr(self.finder, "at_rate", lambda rate: self.finder)
        return self._run(frames, Tracker(self.steady.at_rate(rate)), at_rate(rate), closely, rate)

    def _run(self, frames, tracker, finder, closely=None, rate=1):
        unpopped = deque()
        failed_frames = set()
        next_look = 0  # first frame that may be looked at closely again
        for batch, found in self._searched(checked(frames), finder):
            for frame, boxes in zip(batch, found):
                now = tracker.pushed
                if boxes is not None and closely and now >= next_look and tracker.loses(boxes):
                    boxes = self._find([frame], now, closely)[0]
                    next_look = now + rate / LOOKS_A_SECOND
                if boxes is None:
                    failed_frames.add(now)
                tracker.push(np.zeros((0, 4)) if boxes is None else boxes)
                unpopped.append(frame)
            if len(batch) < FRAMES_AT_ONCE:  # the last one, maybe empty
                tracker.finish()
            while tracker.ready():
                number = tracker.frames
                frame = unpopped.popleft()
                boxes = tracker.pop()
                painted = None
                if number not in failed_frames:
                    painted = self._try(self._paint, (frame, boxes), number, "repainted")
                if painted is None:
                    failed_frames.add(number)
                    painted = np.zeros_like(frame)
                self.shown = list(zip(tracker.shown, boxes))
                self.summary = {**tracker.counts(), "frames_covered_whole": len(failed_frames)}
                yield painted

    def _searched(self, frames, finder):
        """(frames, boxes) of each batch, the next `workers` being searched in the meantime.

        The last batch is shorter than FRAMES_AT_ONCE.
        """
        searches = deque()
        number = 0
        more = True
        with ThreadPoolExecutor(self.workers) as pool:
            while more or searches:
                if more:
                    batch = list(itertools.islice(frames, FRAMES_AT_ONCE))
                    searches.append((batch, pool.submit(self._find, batch, number, finder)))
                    number += len(batch)
                    more = len(batch) == FRAMES_AT_ONCE
                if len(searches) > self.workers or not more:
                    batch, search = searches.popleft()
                    yield batch, search.result()

    def _find(self, batch, number, finder):
        """Boxes (k, 4) of each frame; None for one that failed, if such frames are covered."""
        if not batch:
            return []
        found = self._try(search, (finder, batch), number, "searched")
        if found is None and len(batch) > 1:  # one bad frame, or too many at once: each by itself
            return [self._find([frame], number + i, finder)[0] for i, frame in enumerate(batch)]
        return [None] if found is None else found

    def _try(self, work, arguments, number, done):
        """work(*arguments), or where it fails None (on_error "cover") or a ValueError."""
        try:
            with torch.inference_mode():
                return work(*arguments)
        except FAILURES as error:
            if self.on_error == "cover":
                return None
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            fault = f"frame {number} cannot be {done} ({reason}): nothing was written"
            raise ValueError(f"{fault}; --on_error cover blackens such frames") from error

    def _paint(self, frame, boxes):
        """frame (H, W, 3) uint8, repainted in 1.6 times the boxes (k, 4); the rest is unchanged."""
        height, width = frame.shape[:2]
        boxes = torch.as_tensor(boxes, dtype=torch.float32)
        touches = (boxes[:, 0] < width) & (boxes[:, 1] < height) & (boxes[:, 2:] > 0).all(1)
        boxes = boxes[touches]
        if not len(boxes):
            return frame
        boxes = enlarge_boxes(boxes, (height, width))  # (k, 4)
        # Largest last, so on top: a small box must not show again, finer, what a large one hid.
        boxes = boxes[(boxes[:, 2:] - boxes[:, :2]).prod(1).argsort()]
        # Only a window about each box becomes floating point, 1 px wider, as crops look that far.
        low = (boxes[:, :2].floor().long() - 1).clamp(min=0)  # (k, 2)
        high = (boxes[:, 2:].ceil().long() + 1).clamp(max=torch.tensor([width, height]))
        windows = []
        for (x0, y0), (x1, y1) in zip(low.tolist(), high.tolist()):
            windows.append((slice(y0, y1), slice(x0, x1)))
        inside = (boxes - low.repeat(1, 2))[:, None]  # (k, 1, 4): each box in its window
        crops = [
            crop_faces(self._to_tensor(frame[window]), [box], self.size)
            for window, box in zip(windows, inside)
        ]
        crops = torch.cat(crops).split(CROPS_AT_ONCE)  # (k, 3, S, S), in parts
        crops = torch.cat([self.anonymizer(part) for part in crops])
        if not crops.isfinite().all():
            raise ValueError("the anonymizer gave pixels that are not finite")
        painted = frame.copy()
        for i, window in enumerate(windows):
            before = self._to_tensor(painted[window])  # (1, 3, h, w)
            pasted = paste_faces(before, crops[i, None].clamp(-1, 1), [inside[i]])
            if self.feather:
                weight = fade(boxes[i], window, (height, width), self.feather).to(before)
                pasted = before * (1 - weight) + pasted * weight
            pixels = ((pasted[0] + 1) * 127.5).round().clamp(0, 255).byte()  # (3, h, w)
            painted[window] = pixels.permute(1, 2, 0).cpu().numpy()
        return painted

    def _to_tensor(self, window):
        pixels = torch.tensor(window, device=self.device)  # (h, w, 3) uint8
        return pixels.permute(2, 0, 1)[None] / 127.5 - 1  # (1, 3, h, w)


def checked(frames):
    """The frames as arrays. ValueError unless (H, W, 3) uint8, all of one size."""
    size = None
    for frame in map(np.asarray, frames):
        size = size or frame.shape
        if frame.shape != size or len(size) != 3 or size[2] != 3 or frame.dtype != np.uint8:
            got = f"a frame is {frame.shape} {frame.dtype}"
            raise ValueError(f"{got}: give (H, W, 3) uint8, of one size")
        yield frame


def search(finder, frames):
    """A finder's boxes as numpy (k, 4), those without area dropped. ValueError for a bad answer."""
    found = []
    for boxes in finder(frames):
        boxes = np.asarray(torch.as_tensor(boxes).cpu(), np.float64).reshape(-1, 4)
        if not np.isfinite(boxes).all():
            raise ValueError("the finder gave a box that is not finite")
        found.append(boxes[(boxes[:, 2:] > boxes[:, :2]).all(1)])
    if len(found) != len(frames):
        raise ValueError(f"the finder answered for {len(found)} of {len(frames)} frames")
    return found


def fade(box, window, frame_size, part):
    """Weights (h, w) of a window's pixels, 1 inside a box and falling to 0 at its edges.

    A side on the frame's border does not fall: the face may go on behind it.

    Args:
        box: (4,) px of the frame.
        window: two slices of the frame, of rows and of columns.
        frame_size: (H, W).
        part: of the box's side, over which a weight falls.
    """
    weights = []
    for rows, length, low, high in zip(window, frame_size, box[[1, 0]], box[[3, 2]]):
        place = torch.arange(rows.start, rows.stop) + 0.5
        weight = torch.ones(len(place))
        if low > 0:
            weight = torch.minimum(weight, (place - low) / (part * (high - low)))
        if high < length:
            weight = torch.minimum(weight, (high - place) / (part * (high - low)))
        weights.append(weight.clamp(0, 1))
    return weights[0][:, None] * weights[1]


class RecallFinder:
    """Boxes of frames by a `FaceFinder` whose SSH sees the first of them and every `every`-th."""

    def __init__(self, faces, every=1):
        self.faces = faces
        self.every = every

    def __call__(self, frames):
        return [found["boxes"] for found in self.faces.find(frames, self.every)]

    def closely(self, frames):
        """Boxes of frames, each seen as it is, turned to both sides, and with shadows lifted.

        A face that lies, or in the dark, is found in one of these only.
        """
        found = []
        for frame in frames:
            height, width = frame.shape[:2]
            views = [frame, lift_shadows(frame), np.rot90(frame), np.rot90(frame, -1)]
            views = [np.ascontiguousarray(view) for view in views]
            upright, lifted, left, right = (faces["boxes"] for faces in self.faces.find(views))
            left = torch.stack([width - left[:, 3], left[:, 0], width - left[:, 1], left[:, 2]], 1)
            right = [right[:, 1], height - right[:, 2], right[:, 3], height - right[:, 0]]
            right = torch.stack(right, 1)
            boxes = upright
            for more in (lifted, left, right):
                known = box_iou(more, boxes) > SAME_FACE  # (k, n)
                boxes = torch.cat([boxes, more[~known.any(1)]])
            found.append(boxes)
        return found

    def at_rate(self, rate):
        """The finder for a movie of `rate` frames a second.

        SSH, which takes as long as MTCNN, searches LOOKS_A_SECOND frames a second, at least one in
        FRAMES_AT_ONCE. What it alone finds is followed through the frames between, and held; a face
        that MTCNN misses and that is visible for less than that may stay as it is.
        """
        return RecallFinder(self.faces, max(1, round(rate / LOOKS_A_SECOND)))


def lift_shadows(frame):
    """(H, W, 3) uint8 by a gamma curve that brings its mean to BRIGHT, at least GAMMA (ours)."""
    mean = frame.mean() / 255
    gamma = min(GAMMA, np.log(BRIGHT) / np.log(np.clip(mean, 1e-3, 0.999)))
    curve = (255 * (np.arange(256) / 255) ** gamma).round().astype(np.uint8)
    return curve[frame]


def default_finder(min_face=SMALLEST_FACE, device="cpu", threshold=THRESHOLD):
    """A finder of few misses: MTCNN or SSH; MTCNN alone where SSH has no weights.

    min_face: px; threshold: least face probability, 0.1 less for MTCNN's P-net and for SSH.
    Raises ValueError for a threshold not in (0.1, 1), or without MTCNN's weights.
    """
    if not 0.1 < threshold < 1:
        raise ValueError(f"threshold is {threshold}: give a number between 0.1 and 1")
    thresholds = (threshold - 0.1, threshold, threshold)
    mtcnn = MTCNN.load(config=MTCNNConfig(min_face=min_face, thresholds=thresholds)).to(device)
    try:
        ssh = SSH.load().to(device)
    except ValueError:
        return RecallFinder(FaceFinder(mtcnn=mtcnn, rule="mtcnn"))
    return RecallFinder(FaceFinder(mtcnn, ssh, rule="either", ssh_score=threshold - 0.1))


# ---------------------------------------------------------------- the preview


class Samples:
    """Pictures taken evenly from any number of them, between half of `most` and `most`."""

    def __init__(self, most=SHEET_COLUMNS * SHEET_ROWS):
        self.most = most
        self.kept = []
        self.seen = 0
        self.every = 1

    def add(self, frame):
        if self.seen % self.every == 0:
            picture = Image.fromarray(frame)
            picture.thumbnail((SHEET_WIDTH, SHEET_WIDTH))
            self.kept.append(picture)
            if len(self.kept) > self.most:
                self.kept = self.kept[::2]
                self.every *= 2
        self.seen += 1


class Sheet:
    """A sheet to find missed faces on: finished frames only, since an original would leak them.

    Some frames, evenly taken; some of those in which nothing was found; a crop of each track where
    it is largest, small ones enlarged.
    """

    def __init__(self):
        self.file = 0  # number of the file under way: tracks are counted in each
        self.frames = Samples()
        self.empty = Samples()
        self.crops = {}  # (file, track) -> (area, picture)

    def show(self, frame, faces):
        """Take in a frame (H, W, 3) uint8 and its faces [(track, box (4,))]."""
        self.frames.add(frame)
        if not faces:
            self.empty.add(frame)
        for track, (x0, y0, x1, y1) in faces:
            key = (self.file, track)
            area = (x1 - x0) * (y1 - y0)
            known = key in self.crops
            if known and area < 1.5 * self.crops[key][0] or not known and len(self.crops) >= CROPS:
                continue
            half = max(x1 - x0, y1 - y0)  # twice the face's side
            x = (x0 + x1) / 2
            y = (y0 + y1) / 2
            window = [round(edge) for edge in (x - half, y - half, x + half, y + half)]
            crop = Image.fromarray(frame).crop(window).resize((SHEET_WIDTH // 2,) * 2)
            self.crops[key] = (area, crop)

    def save(self, path):
        """Write the sheet as .png. Raises WriteError."""
        crops = [picture for _, picture in self.crops.values()]
        grids = [grid(f"1 of {self.frames.every} frames", self.frames.kept, SHEET_COLUMNS)]
        if self.empty.seen:
            title = f"nothing found ({self.empty.seen} frames)"
            grids.append(grid(title, self.empty.kept, SHEET_COLUMNS))
        if crops:
            grids.append(grid(f"{len(crops)} tracks", crops, 2 * SHEET_COLUMNS))
        sheet = np.concatenate(grids)
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
