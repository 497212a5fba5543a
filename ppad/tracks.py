"""Track face boxes through consecutive frames: match them, fill gaps and smooth.

The paper finds faces frame by frame (Sec. 4) and has no movies; all of this is ours. A detector
that looks at single frames misses a face now and then, and its boxes jitter. So:

    gap      a face missed between two detections is covered by linear interpolation
    hold     a face is covered for some frames before its first and after its last detection
    growth   a box without a detection grows with the number of frames to the nearest one, as the
             face may have moved
    shrink   a box far larger than its track's nearby ones counts in its own frame only
    smooth   each edge of a box moves to its outermost place within `radius` frames, and is then
             averaged over frames within `radius`

Smoothing never uncovers a face. The average at frame t is over frames within `radius` of t, and in
each of them the edge is the outermost in a window that includes t. So no term lies inside the edge
at t, and neither does the mean. A fast face gets a longer box.

Filling and smoothing need later frames, so boxes come out `delay` frames after they went in:

    tracker = Tracker()
    for boxes in detections:
        tracker.push(boxes)
        while tracker.ready():
            covered = tracker.pop()     # of the frame pushed `delay` frames ago
    tracker.finish()                    # then pop the rest while ready

Every pushed box lies within a popped box of its frame. Boxes are xyxy px, numpy float64 (k, 4).
"""

import math
from dataclasses import dataclass

import numpy as np

# How far a detection may be from a track that it continues, in sides of the box (ours): in a frame
# a head seldom moves by more than half its width from its last or predicted place.
# Too high a value only covers a needless path between two faces.
REACH = 0.6
REACH_PER_FRAME = 0.1  # added for each frame without a detection
MAX_REACH = 1.5
MAX_SIZE_RATIO = 2.0  # ours: sides that differ by more are two faces
# How far each edge moves outward per frame without detection, in sides of the box (ours): enough
# for a head that swings by its own width and is missed for ten frames; more would make boxes
# pulse. Boxes next to a detection do not grow: interpolation is good enough.
GROWTH = 0.02
MAX_GROWTH = 0.15
NEIGHBORS = 10  # ours: frames to either side with which a box is compared
TOO_LARGE = 1.4  # ours: times their median side; an approaching head grows more slowly
TUNED_RATE = 30  # frames a second of the movies that `Steady` was tried on


@dataclass(frozen=True)
class Steady:
    """Settings in frames, for up to 30 frames a second; `at_rate` converts them.

    Ours, tried on four movies with 30 % of the boxes missing. gap: most frames without detection
    between two detections of one track (half a second); hold: frames covered before the first and
    after the last; radius: of the smoothing.
    """

    gap: int = 15
    hold: int = 10
    radius: int = 3

    def __post_init__(self):
        for name, value in vars(self).items():
            if value < 0:
                raise ValueError(f"{name} is {value}: give a number of frames, 0 or more")

    def at_rate(self, rate):
        """Keep gap and hold in seconds at `rate` frames a second, but never fewer frames."""
        scale = max(1.0, float(rate) / TUNED_RATE)
        return Steady(math.ceil(self.gap * scale), math.ceil(self.hold * scale), self.radius)

    @property
    def delay(self):
        """Frames to look ahead: to the end of a gap that begins within the smoothing window."""
        return max(self.gap + 2 * self.radius, self.hold)


@dataclass
class Track:
    """The detections of one face: `frames` and `boxes`, in order of time."""

    number: int
    frames: list[int]
    boxes: list[np.ndarray]

    def predict(self, frame):
        """Extrapolate the box (4,) to `frame`, after the last detection, at its last speed."""
        if len(self.boxes) == 1:
            return self.boxes[0]
        step = center_of(self.boxes[-1]) - center_of(self.boxes[-2])  # (2,) px
        speed = step / (self.frames[-1] - self.frames[-2])
        return self.boxes[-1] + np.tile(speed, 2) * (frame - self.frames[-1])

    def covers(self, frame, hold):
        """Whether `frame` is at most `hold` before the first or after the last detection."""
        return self.frames[0] - hold <= frame <= self.frames[-1] + hold

    def box_at(self, frame, radius):
        """The box (4,) at `frame`: interpolated, smoothed, and grown where nothing was detected."""
        window = np.arange(frame - 2 * radius, frame + 2 * radius + 1)  # (4r + 1,)
        frames = np.array(self.frames)  # (n,)
        boxes = np.stack(self.boxes)  # (n, 4)
        usual = ~too_large(frames, boxes)
        path = np.stack([np.interp(window, frames[usual], edge) for edge in boxes[usual].T])
        # path: (4, 4r + 1); nearby: (4, 2r + 1, 2r + 1)
        nearby = np.lib.stride_tricks.sliding_window_view(path, 2 * radius + 1, axis=1)
        outermost = np.concatenate([nearby[:2].min(2), nearby[2:].max(2)])  # (4, 2r + 1)
        mean = outermost.mean(1)  # (4,)
        raw = path[:, 2 * radius]  # (4,), inside `mean` but for rounding
        oversized = boxes[(frames == frame) & ~usual]  # (0 or 1, 4)
        covered = np.stack([mean, raw, *oversized])
        box = np.concatenate([covered[:, :2].min(0), covered[:, 2:].max(0)])
        away = np.abs(frame - frames).min()
        margin = np.clip(GROWTH * (away - 1), 0, MAX_GROWTH) * side_of(box)
        return box + margin * np.array([-1, -1, 1, 1])

    def forget(self, frame):
        """Drop detections not needed from `frame` on: those before it, except the last."""
        while len(self.frames) > 1 and self.frames[1] <= frame:
            del self.frames[0]
            del self.boxes[0]


class Tracker:
    """Turns detections into steady boxes, `steady.delay` frames later, in constant memory.

    Counts so far: `frames` popped; `faces` pushed; `tracks` begun; `filled` boxes in frames without
    a detection of that face; `longest_gap`, in frames, between two detections of one track;
    `frames_without_face` popped without a box. `shown` lists the numbers of the tracks whose boxes
    were popped last.
    """

    def __init__(self, steady=Steady()):
        self.steady = steady
        self.pushed = 0
        self.frames = 0
        self.faces = 0
        self.tracks = 0
        self.filled = 0
        self.longest_gap = 0
        self.frames_without_face = 0
        self.shown = []
        self._tracks = []
        self._finished = False

    def lost(self, boxes, frames):
        """Predicted boxes (n, 4) of lost tracks in the next frame.

        A lost track can still continue, but has no detection in the next frame, boxes (k, 4), nor
        in the `frames` - 1 before it.
        """
        alive, track_of = self._match(boxes)
        lost = [
            track.predict(self.pushed)
            for i, track in enumerate(alive)
            if i not in track_of.values() and track.frames[-1] <= self.pushed - frames
        ]
        return np.array(lost).reshape(-1, 4)

    def _match(self, boxes):
        """The tracks that can continue, and {index of box: index of track}."""
        oldest = self.pushed - 1 - self.steady.gap
        alive = [track for track in self._tracks if track.frames[-1] >= oldest]
        return alive, match(alive, np.asarray(boxes), self.pushed)

    def push(self, boxes):
        """Add the next frame's detections (k, 4) xyxy px; k may be 0.

        Raises ValueError unless they are finite with x1 < x2 and y1 < y2.
        """
        boxes = np.asarray(boxes, np.float64)
        have_area = boxes.shape[1:] == (4,) and (boxes[:, 2:] > boxes[:, :2]).all()
        if not have_area or not np.isfinite(boxes).all():
            got = f"boxes of frame {self.pushed} are {boxes.tolist()}"
            raise ValueError(f"{got}: give finite (k, 4) xyxy px with an area, (0, 4) for no face")
        alive, track_of = self._match(boxes)
        for index, box in enumerate(boxes):
            if index in track_of:
                track = alive[track_of[index]]
                self.longest_gap = max(self.longest_gap, self.pushed - track.frames[-1] - 1)
                track.frames.append(self.pushed)
                track.boxes.append(box)
            else:
                self._tracks.append(Track(self.tracks, [self.pushed], [box]))
                self.tracks += 1
        self.pushed += 1
        self.faces += len(boxes)

    def finish(self):
        """No more frames: the rest can be popped."""
        self._finished = True

    def ready(self):
        """Whether enough is known to pop the next frame."""
        ahead = 0 if self._finished else self.steady.delay
        return self.pushed - self.frames > ahead

    def pop(self):
        """The steady boxes (n, 4) of the oldest frame not yet popped. ValueError unless `ready`."""
        if not self.ready():
            raise ValueError("pop: the frames ahead are not known yet: push more, or call finish")
        frame = self.frames
        steady = self.steady
        visible = [track for track in self._tracks if track.covers(frame, steady.hold)]
        boxes = [track.box_at(frame, steady.radius) for track in visible]
        self.shown = [track.number for track in visible]
        self.filled += sum(frame not in track.frames for track in visible)
        self.frames_without_face += not visible
        self.frames += 1
        for track in self._tracks:
            track.forget(self.frames - 2 * steady.radius - NEIGHBORS)
        lifetime = max(steady.hold, steady.gap) + 1  # then nothing needs the track
        self._tracks = [t for t in self._tracks if t.frames[-1] + lifetime >= self.frames]
        return np.array(boxes).reshape(-1, 4)

    def counts(self):
        names = ("frames", "faces", "tracks", "filled", "longest_gap", "frames_without_face")
        return {name: getattr(self, name) for name in names}


def too_large(frames, boxes):
    """Which detections of a track, frames (n,) and boxes (n, 4), are far larger than the others.

    A detector may take a face and one on the shirt below for a single face. Such a box counts in
    its own frame only: it is not interpolated, held or smoothed. Returns (n,) bool.
    """
    side = side_of(boxes)  # (n,)
    outlier = np.zeros(len(side), bool)
    if side.max() <= TOO_LARGE * side.min():
        return outlier
    for i in range(len(side)):
        near = side[(np.abs(frames - frames[i]) <= NEIGHBORS) & (frames != frames[i])]
        outlier[i] = len(near) >= 4 and side[i] > TOO_LARGE * np.median(near)
    return outlier


def side_of(boxes):
    """The side of a square of the same area: (..., 4) -> (...)."""
    return np.sqrt((boxes[..., 2:] - boxes[..., :2]).prod(-1))


def center_of(boxes):
    return (boxes[..., :2] + boxes[..., 2:]) / 2  # (..., 2)


def match(tracks, boxes, now):
    """Match boxes (k, 4) in frame `now` to the tracks: {index of box: index of track}.

    Nearest pairs first, each used once. A pair fits if the box's center is within reach of the
    track's last or predicted center, and the ratio of their sides is at most MAX_SIZE_RATIO. The
    reach grows with the frames between.
    """
    last = np.array([track.boxes[-1] for track in tracks]).reshape(-1, 4)  # (n, 4)
    predicted = np.array([track.predict(now) for track in tracks]).reshape(-1, 4)  # (n, 4)
    elapsed = np.array([now - track.frames[-1] for track in tracks])  # (n,)
    side_last = side_of(last)[:, None]  # (n, 1)
    side = side_of(boxes)  # (k,)
    larger = np.maximum(side_last, side)  # (n, k)
    smaller = np.minimum(side_last, side)
    offset = center_of(np.stack([last, predicted]))[:, :, None] - center_of(boxes)  # (2, n, k, 2)
    distance = np.linalg.norm(offset, axis=-1).min(0) / larger  # (n, k)
    reach = np.minimum(REACH + REACH_PER_FRAME * (elapsed - 1), MAX_REACH)[:, None]  # (n, 1)
    track, box = np.nonzero((distance <= reach) & (larger <= MAX_SIZE_RATIO * smaller))
    track_of = {}
    nearest = np.argsort(distance[track, box], kind="stable")
    for i, j in zip(track[nearest].tolist(), box[nearest].tolist()):
        if j not in track_of and i not in track_of.values():
            track_of[j] = i
    return track_of
