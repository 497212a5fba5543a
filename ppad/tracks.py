"""Tracks: face boxes of consecutive frames, matched, filled and smoothed.

The paper finds faces frame by frame (Sec. 4) and repaints no movies; all of this is ours. A
detector that sees single frames misses a face now and then, and its boxes jitter. So:

    gap      between two detections of a face, its box is interpolated linearly
    hold     a face is covered for some frames before its first and after its last detection
    growth   a face without a detection may have moved, so its box grows with the number of frames
             to the nearest detection
    shrink   a box far larger than others of its track nearby counts in its own frame only
    smooth   each edge of a box moves to its outermost position within `radius` frames, and is then
             averaged over the frames within `radius`

Smoothing never uncovers a face: the average at frame t is over frames within `radius` of t, and
each of these has taken the outermost position within `radius` of itself, which includes t. So no
term is inside the edge at t, nor is their mean. A fast face gets a longer box.

Filling and smoothing look ahead, so boxes come out `delay` frames after they went in:

    tracker = Tracker()
    for boxes in detections:
        tracker.push(boxes)
        while tracker.ready():
            covered = tracker.pop()     # of the frame pushed `delay` frames ago
    tracker.finish()                    # then pop the rest while ready

Each pushed box lies inside a popped box of its frame. Boxes are xyxy px, numpy float64 (k, 4).
"""

import math
from dataclasses import dataclass

import numpy as np

# Ours: a detection's largest distance from the track that it continues, in sides of the box. A head
# seldom moves by more than half its width in a frame, from its last or predicted position. A wrong
# match only covers a needless line between two faces.
REACH = 0.6
REACH_PER_FRAME = 0.1  # added for each frame without a detection
MAX_REACH = 1.5
MAX_SIZE_RATIO = 2.0  # ours: boxes whose sides differ by more are two faces
# Ours: each edge's growth per frame without a detection, in sides of the box: enough for a head
# that swings by its own width, missed for ten frames; more would make boxes pulse. Next to a
# detection nothing is added, as interpolation is good enough there.
GROWTH = 0.02
MAX_GROWTH = 0.15
NEIGHBORS = 10  # ours: frames before and after a box to compare it with
TOO_LARGE = 1.4  # ours: times their median side; heads approach more slowly
TUNED_RATE = 30  # frames a second of the movies `Steady` was tried on


@dataclass(frozen=True)
class Steady:
    """The tracker's ranges in frames, for up to 30 frames a second; `at_rate` gives them for more.

    Ours, tried on four movies with 30 % of the boxes removed. gap: most frames between two
    detections of a track (half a second). hold: frames covered before the first and after the last
    detection. radius: of the smoothing.
    """

    gap: int = 15
    hold: int = 10
    radius: int = 3

    def __post_init__(self):
        for name, value in vars(self).items():
            if value < 0:
                raise ValueError(f"{name} is {value}: give a number of frames, 0 or more")

    def at_rate(self, rate):
        """The same gap and hold in seconds at `rate` frames a second, never in fewer frames."""
        scale = max(1.0, float(rate) / TUNED_RATE)
        return Steady(math.ceil(self.gap * scale), math.ceil(self.hold * scale), self.radius)

    @property
    def delay(self):
        """Frames to look ahead: to the end of a gap that begins within the smoothing window."""
        return max(self.gap + 2 * self.radius, self.hold)


@dataclass
class Track:
    """The detections of one face in order of time: `frames` and `boxes`."""

    number: int
    frames: list[int]
    boxes: list[np.ndarray]

    def predict(self, frame):
        """The box (4,) at `frame`, after the last detection, if it keeps its speed."""
        if len(self.boxes) == 1:
            return self.boxes[0]
        step = center_of(self.boxes[-1]) - center_of(self.boxes[-2])  # (2,) px
        speed = step / (self.frames[-1] - self.frames[-2])
        return self.boxes[-1] + np.tile(speed, 2) * (frame - self.frames[-1])

    def covers(self, frame, hold):
        """Whether `frame` is at most `hold` before the first or after the last detection."""
        return self.frames[0] - hold <= frame <= self.frames[-1] + hold

    def box_at(self, frame, radius):
        """The box (4,) at `frame`: interpolated, smoothed, and grown if it was not detected."""
        window = np.arange(frame - 2 * radius, frame + 2 * radius + 1)  # (4r + 1,)
        frames = np.array(self.frames)  # (n,)
        boxes = np.stack(self.boxes)  # (n, 4)
        usual = ~too_large(frames, boxes)
        path = np.stack([np.interp(window, frames[usual], edge) for edge in boxes[usual].T])
        # path: (4, 4r + 1); nearby: (4, 2r + 1, 2r + 1)
        nearby = np.lib.stride_tricks.sliding_window_view(path, 2 * radius + 1, axis=1)
        outermost = np.concatenate([nearby[:2].min(2), nearby[2:].max(2)])  # (4, 2r + 1)
        mean = outermost.mean(1)  # (4,)
        here = path[:, 2 * radius]  # (4,), inside `mean` up to rounding
        own = boxes[(frames == frame) & ~usual]  # (0 or 1, 4)
        covered = np.stack([mean, here, *own])
        box = np.concatenate([covered[:, :2].min(0), covered[:, 2:].max(0)])
        away = np.abs(frame - frames).min()
        margin = np.clip(GROWTH * (away - 1), 0, MAX_GROWTH) * side_of(box)
        return box + margin * np.array([-1, -1, 1, 1])

    def forget(self, frame):
        """Drop detections that `frame` and later ones do not need: all but the last before it."""
        while len(self.frames) > 1 and self.frames[1] <= frame:
            del self.frames[0]
            del self.boxes[0]


class Tracker:
    """Takes detections, gives steady boxes `steady.delay` frames later, in constant memory.

    Counts so far: `frames` popped; `faces` pushed; `tracks` begun; `filled` boxes, popped without a
    detection; `longest_gap`, in frames, between two detections of one track; `frames_without_face`
    popped. `shown`: numbers of the tracks whose boxes were popped last.
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
        """Predicted boxes (n, 4) of lost tracks in the next frame, whose detections are `boxes`.

        A track is lost if it can go on, but has no detection in the last `frames` frames, the next
        one included.
        """
        alive, track_of = self._match(boxes)
        lost = [
            track.predict(self.pushed)
            for i, track in enumerate(alive)
            if i not in track_of.values() and track.frames[-1] <= self.pushed - frames
        ]
        return np.array(lost).reshape(-1, 4)

    def _match(self, boxes):
        """The tracks that can go on, and which boxes continue them: {index of box: of track}."""
        last = self.pushed - 1 - self.steady.gap
        alive = [track for track in self._tracks if track.frames[-1] >= last]
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
        """End the movie: all remaining frames can be popped."""
        self._finished = True

    def ready(self):
        """Whether enough frames were pushed to pop the next one."""
        ahead = 0 if self._finished else self.steady.delay
        return self.pushed - self.frames > ahead

    def pop(self):
        """The steady boxes (n, 4) of the oldest frame not popped yet. ValueError unless `ready`."""
        if not self.ready():
            raise ValueError("pop: the frames ahead are not known yet: push more, or call finish")
        frame = self.frames
        steady = self.steady
        shown = [track for track in self._tracks if track.covers(frame, steady.hold)]
        boxes = [track.box_at(frame, steady.radius) for track in shown]
        self.shown = [track.number for track in shown]
        self.filled += sum(frame not in track.frames for track in shown)
        self.frames_without_face += not shown
        self.frames += 1
        for track in self._tracks:
            track.forget(self.frames - 2 * steady.radius - NEIGHBORS)
        longest = max(steady.hold, steady.gap) + 1  # older tracks are not needed any more
        self._tracks = [t for t in self._tracks if t.frames[-1] + longest >= self.frames]
        return np.array(boxes).reshape(-1, 4)

    def counts(self):
        names = ("frames", "faces", "tracks", "filled", "longest_gap", "frames_without_face")
        return {name: getattr(self, name) for name in names}


def too_large(frames, boxes):
    """Which detections of a track, frames (n,) and boxes (n, 4), are far larger than the others.

    A detector may join a face with a face printed on the shirt. Such a box counts in its own frame
    only: it is not interpolated, held or smoothed. Returns (n,) bool.
    """
    side = side_of(boxes)  # (n,)
    answer = np.zeros(len(side), bool)
    if side.max() <= TOO_LARGE * side.min():
        return answer
    for i in range(len(side)):
        near = side[(np.abs(frames - frames[i]) <= NEIGHBORS) & (frames != frames[i])]
        answer[i] = len(near) >= 4 and side[i] > TOO_LARGE * np.median(near)
    return answer


def side_of(boxes):
    """Sides of squares with the boxes' areas: (..., 4) -> (...)."""
    return np.sqrt((boxes[..., 2:] - boxes[..., :2]).prod(-1))


def center_of(boxes):
    return (boxes[..., :2] + boxes[..., 2:]) / 2  # (..., 2)


def match(tracks, boxes, now):
    """Which of the boxes (k, 4) in frame `now` continue which tracks: {index of box: of track}.

    The nearest pairs come first; each box and track is used once. A pair fits if the box's center
    is within reach of the track's last or predicted center (the reach grows with the frames in
    between) and the sides differ by MAX_SIZE_RATIO at most.
    """
    last = np.array([track.boxes[-1] for track in tracks]).reshape(-1, 4)  # (n, 4)
    predicted = np.array([track.predict(now) for track in tracks]).reshape(-1, 4)  # (n, 4)
    apart = np.array([now - track.frames[-1] for track in tracks])  # (n,)
    side_last = side_of(last)[:, None]  # (n, 1)
    side = side_of(boxes)  # (k,)
    larger = np.maximum(side_last, side)  # (n, k)
    smaller = np.minimum(side_last, side)
    offset = center_of(np.stack([last, predicted]))[:, :, None] - center_of(boxes)  # (2, n, k, 2)
    distance = np.linalg.norm(offset, axis=-1).min(0) / larger  # (n, k)
    reach = np.minimum(REACH + REACH_PER_FRAME * (apart - 1), MAX_REACH)[:, None]  # (n, 1)
    track, box = np.nonzero((distance <= reach) & (larger <= MAX_SIZE_RATIO * smaller))
    track_of = {}
    nearest = np.argsort(distance[track, box], kind="stable")
    for i, j in zip(track[nearest].tolist(), box[nearest].tolist()):
        if j not in track_of and i not in track_of.values():
            track_of[j] = i
    return track_of
