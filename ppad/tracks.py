"""Boxes of one frame after another, made steady: followed, filled, and smoothed without uncovering anything.

The paper finds faces frame by frame (Sec. 4) and says nothing of movies; all of this is ours. A detector that looks at
single frames misses a face now and then, and its boxes tremble. A face shown in one frame is a face shown, so:

    gap      a face missed between two sightings is covered there, along a straight line from one to the other
    hold     a face is covered a few frames before its first sighting and after its last
    grow     where it is covered but not seen it may have moved, so its box grows with the frames to the nearest sighting
    smooth   each edge goes to its outermost place within `radius` frames, and then to the mean of those places

Why the last rule never uncovers: the mean at frame t runs over frames within `radius` of t, and each of them has
looked out for the outermost place within `radius` of itself, which includes t. So no term is inside the edge at t,
and neither is their mean. A fast face gets a longer box, which is the safe side.

Filling and smoothing look ahead, so answers come `delay` frames after the boxes went in:

    tracker = Tracker()
    for boxes in detections:
        tracker.push(boxes)
        while tracker.ready():
            covered = tracker.pop()     # of the frame pushed `delay` frames ago
    tracker.finish()                    # then pop the rest while ready

Nothing is dropped: each pushed box lies within a popped box of its frame. Boxes are xyxy px, numpy float64 (k, 4).
"""

from dataclasses import dataclass

import numpy as np

# Which sighting continues which track. A head seldom moves by more than half its width from frame to frame, counted from
# where it was or from where it was going; unseen for longer it may be further off. Too generous
# costs nothing but a needless line between two faces (ours).
REACH, REACH_PER_FRAME, REACH_MOST = (
    0.6,
    0.1,
    1.5,
)  # in sides of the box, by frames since it was seen
SIZES = 2.0  # ours: sides that differ by more are two faces
# Each edge's way outwards in a frame without a sighting, in sides of the box: nothing for a neighbour of a sighting, where a
# straight line is good enough, then so much a frame (ours: enough for a head that swings by its own width, unseen for ten
# frames, to stay covered; more would make the box pulse).
GROWTH, GROWTH_MOST = 0.02, 0.15


@dataclass(frozen=True)
class Steady:
    """How far to look, in frames. All ours, tried on four movies at 30 a second with 30 % of the boxes taken away."""

    gap: int = 15  # most missed frames between two sightings of one track: half a second
    hold: int = 10  # frames covered before the first and after the last sighting
    radius: int = 3  # smoothing: 2 * radius frames before and after have a say

    def __post_init__(self):
        for name in ("gap", "hold", "radius"):
            if getattr(self, name) < 0:
                raise ValueError(
                    f"{name} is {getattr(self, name)}: give a number of frames, 0 or more"
                )

    @property
    def delay(self):
        """Frames to know ahead: the far end of a gap that starts within the smoothing's sight."""
        return max(self.gap + 2 * self.radius, self.hold)


class Track:
    """One face's sightings. `frames` and `boxes` are in order of time; what no answer needs any more is forgotten."""

    def __init__(self, frame, box):
        self.first, self.frames, self.boxes = frame, [frame], [box]

    def add(self, frame, box):
        self.frames.append(frame)
        self.boxes.append(box)

    def ahead(self, frame):
        """Where the box would be at `frame`, after the last sighting, if it went on as it did before."""
        last, before = self.boxes[-1], self.boxes[-2:][0]
        way = (last - before).reshape(2, 2).mean(0) / max(
            self.frames[-1] - self.frames[-2:][0], 1
        )  # (2,) px a frame
        return last + np.tile(way, 2) * (frame - self.frames[-1])

    def covers(self, frame, hold):
        """Is this face to be covered at `frame`? True from `hold` before the first sighting to `hold` after the last."""
        return self.first - hold <= frame <= self.frames[-1] + hold

    def at(self, frame, radius):
        """The smoothed box (4,) at `frame`: filled along straight lines, held beyond the ends, widened and
        averaged, then grown where it is not seen."""
        window = np.arange(frame - 2 * radius, frame + 2 * radius + 1)  # (4r + 1,)
        edges = np.stack(self.boxes)  # (n, 4)
        path = np.stack(
            [np.interp(window, self.frames, edges[:, i]) for i in range(4)]
        )  # (4, 4r + 1)
        nearby = np.lib.stride_tricks.sliding_window_view(
            path, 2 * radius + 1, axis=1
        )  # (4, 2r + 1, 2r + 1)
        outer = np.concatenate([nearby[:2].min(2), nearby[2:].max(2)])  # (4, 2r + 1)
        box, now = outer.mean(1), path[:, 2 * radius]  # (4,)
        box = np.concatenate(
            [np.minimum(box[:2], now[:2]), np.maximum(box[2:], now[2:])]
        )  # against rounding only
        way = growth(np.abs(frame - np.array(self.frames)).min()) * np.sqrt(
            (box[2:] - box[:2]).prod()
        )
        return box + way * np.array([-1, -1, 1, 1])

    def forget(self, frame):
        """Drop sightings that no frame from `frame` on asks for: all but the last one at or before it."""
        while len(self.frames) > 1 and self.frames[1] <= frame:
            del self.frames[0], self.boxes[0]


class Tracker:
    """Detections in, steady boxes out, `steady.delay` frames later. Memory does not grow with the movie.

    Counts so far: `frames` popped, `faces` pushed, `tracks` begun, `filled` boxes that cover a face where it was not
    sighted, `longest_gap` in frames between two sightings of one track, `frames_without_face` popped without a box.
    """

    def __init__(self, steady=Steady()):
        self.steady = steady
        self.pushed = self.frames = 0
        self.faces = self.tracks = self.filled = self.longest_gap = self.frames_without_face = 0
        self._tracks, self._finished = [], False

    def push(self, boxes):
        """The next frame's detections (k, 4) xyxy px; k may be 0. ValueError unless finite with x1 < x2, y1 < y2."""
        boxes = np.asarray(boxes, np.float64)
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            raise ValueError(
                f"boxes have shape {boxes.shape}: give (k, 4) xyxy px, (0, 4) for no face"
            )
        if not (np.isfinite(boxes).all() and (boxes[:, 2:] > boxes[:, :2]).all()):
            raise ValueError(
                f"boxes of frame {self.pushed} hold one that is not finite or has no area: drop it"
            )
        now, self.pushed = self.pushed, self.pushed + 1
        self.faces += len(boxes)
        alive = [track for track in self._tracks if now - track.frames[-1] - 1 <= self.steady.gap]
        taken = match(
            np.array([track.boxes[-1] for track in alive]).reshape(-1, 4),
            np.array([track.ahead(now) for track in alive]).reshape(-1, 4),
            boxes,
            np.array([now - track.frames[-1] for track in alive]),
        )
        for index, box in enumerate(boxes):
            if index in taken:
                track = alive[taken[index]]
                self.longest_gap = max(self.longest_gap, now - track.frames[-1] - 1)
                track.add(now, box)
            else:
                self._tracks.append(Track(now, box))
                self.tracks += 1

    def finish(self):
        """No more frames: what is left can be popped."""
        self._finished = True

    def ready(self):
        """Is enough known to pop the next frame?"""
        known = self.pushed - self.frames
        return known > (0 if self._finished else self.steady.delay)

    def pop(self):
        """The steady boxes (n, 4) of the oldest frame not yet popped. ValueError unless `ready()`."""
        if not self.ready():
            raise ValueError("pop: the frames ahead are not known yet: push more, or call finish")
        frame, hold, radius = self.frames, self.steady.hold, self.steady.radius
        shown = [track for track in self._tracks if track.covers(frame, hold)]
        boxes = np.array([track.at(frame, radius) for track in shown]).reshape(-1, 4)  # (n, 4)
        self.filled += sum(frame not in track.frames for track in shown)
        self.frames_without_face += not shown
        self.frames += 1
        for track in self._tracks:
            track.forget(self.frames - 2 * radius)
        self._tracks = [
            track
            for track in self._tracks  # over, and out of reach of a push
            if track.frames[-1] + max(hold, self.steady.gap) + 1 >= self.frames
        ]
        return boxes

    def counts(self):
        """The counts as a dict, for a summary."""
        return {
            name: getattr(self, name)
            for name in (
                "frames",
                "faces",
                "tracks",
                "filled",
                "longest_gap",
                "frames_without_face",
            )
        }


def growth(unseen):
    """How far each edge goes outwards, in sides of the box, `unseen` frames from the nearest sighting."""
    return np.clip(GROWTH * (unseen - 1), 0, GROWTH_MOST)


def match(last, ahead, boxes, apart):
    """Which detection continues which track: nearest pairs first, each used once.

    last, ahead (n, 4): where the tracks were seen last, and where they would be now had they gone on; boxes (k, 4):
    detections; apart (n,): frames between. A pair fits when the box's centre is within reach of one of the two, which
    grows with `apart`, and the sides do not differ by more than SIZES. Returns {index of box: index of track}.
    """
    if not len(last) or not len(boxes):
        return {}
    side_last, side = (np.sqrt((b[:, 2:] - b[:, :2]).prod(1)) for b in (last, boxes))  # (n,), (k,)
    larger, smaller = (
        np.maximum(side_last[:, None], side),
        np.minimum(side_last[:, None], side),
    )  # (n, k)
    middle, places = (boxes[:, :2] + boxes[:, 2:]) / 2, np.stack([last, ahead])  # (k, 2), (2, n, 4)
    off = ((places[..., :2] + places[..., 2:]) / 2)[:, :, None] - middle  # (2, n, k, 2)
    distance = np.hypot(off[..., 0], off[..., 1]).min(0) / larger  # (n, k)
    reach = np.minimum(REACH + REACH_PER_FRAME * (apart - 1), REACH_MOST)[:, None]  # (n, 1)
    track, box = np.nonzero((distance <= reach) & (larger <= SIZES * smaller))
    taken, used = {}, set()
    for i in np.argsort(distance[track, box], kind="stable"):
        if int(box[i]) not in taken and int(track[i]) not in used:
            taken[int(box[i])] = int(track[i])
            used.add(int(track[i]))
    return taken
