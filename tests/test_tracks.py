"""Boxes made steady: against a slow offline oracle that sees the whole movie, and against hand-made
movies.
"""

import numpy as np
import pytest

from ppad.tracks import Steady, Track, Tracker, match


def steady_boxes(detections, steady=Steady()):
    """All popped boxes, one array a frame, and the tracker."""
    tracker = Tracker(steady)
    popped = []
    for boxes in detections:
        tracker.push(boxes)
        while tracker.ready():
            popped.append(tracker.pop())
    tracker.finish()
    while tracker.ready():
        popped.append(tracker.pop())
    return popped, tracker


def walk(n, seed, speed=2.0, jitter=2.0, side=60.0):
    """One face that wanders and whose box trembles: (n, 4)."""
    rng = np.random.default_rng(seed)
    center = 200 + np.cumsum(rng.normal(0, speed, (n, 2)), 0)
    return np.concatenate([center - side / 2, center + side / 2], 1) + rng.normal(0, jitter, (n, 4))


def inside(box, boxes):
    return len(boxes) and ((boxes[:, :2] <= box[:2]) & (boxes[:, 2:] >= box[2:])).all(1).any()


def offline(sightings, steady):
    """The module's rules in plain loops, for one face: {frame: box} -> {frame: box}."""
    frames = sorted(sightings)
    r = steady.radius

    def filled(t):
        if t <= frames[0] or t >= frames[-1]:
            return sightings[frames[0] if t <= frames[0] else frames[-1]]
        a = max(f for f in frames if f <= t)
        b = min(f for f in frames if f >= t)
        return (
            sightings[a]
            if a == b
            else sightings[a] + (sightings[b] - sightings[a]) * (t - a) / (b - a)
        )

    def grown(box, t):
        away = min(abs(t - f) for f in frames)
        side = ((box[2] - box[0]) * (box[3] - box[1])) ** 0.5
        return box + np.array([-1, -1, 1, 1]) * side * min(max(0.02 * (away - 1), 0), 0.15)

    answer = {}
    for t in range(frames[0] - steady.hold, frames[-1] + steady.hold + 1):
        edges = []
        for middle in range(t - r, t + r + 1):
            near = np.array([filled(f) for f in range(middle - r, middle + r + 1)])
            edges.append(np.concatenate([near[:, :2].min(0), near[:, 2:].max(0)]))
        answer[t] = grown(np.mean(edges, 0), t)
    return answer


@pytest.mark.parametrize(
    "steady", [Steady(), Steady(gap=4, hold=2, radius=1), Steady(gap=3, hold=9, radius=0)]
)
def test_streaming_equals_the_whole_movie_at_once(steady):
    boxes = walk(90, 1)
    rng = np.random.default_rng(2)
    seen = {}
    n = 0
    for t in range(12, 80):  # absent at both ends
        if rng.random() < 0.6 or n == steady.gap:  # and never missed for longer than a gap
            seen[t] = boxes[t]
            n = 0
        else:
            n += 1
    popped, tracker = steady_boxes(
        [seen[t][None] if t in seen else np.zeros((0, 4)) for t in range(90)], steady
    )
    expected = offline(seen, steady)
    assert len(popped) == 90 and tracker.tracks == 1
    for t, got in enumerate(popped):
        assert len(got) == (t in expected)
        if len(got):
            np.testing.assert_allclose(got[0], expected[t], atol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_what_was_sighted_is_covered_always(seed):
    """Many faces, wild ones among them, any of them missed at random: no pushed box leaves its
    popped ones.
    """
    rng = np.random.default_rng(seed)
    paths = [walk(60, 10 * seed + i, speed=1 + 12 * i) for i in range(4)]
    detections = [
        np.array([path[t] for path in paths if rng.random() < 0.7]).reshape(-1, 4)
        for t in range(60)
    ]
    popped, tracker = steady_boxes(detections, Steady(gap=5, hold=3, radius=2))
    assert tracker.faces == sum(map(len, detections)) and tracker.frames == 60
    for t, boxes in enumerate(detections):
        assert all(inside(box, popped[t]) for box in boxes)


def test_missed_faces_are_covered():
    """30 % dropped at random: the box that was there, in what is painted (1.6 times), stays covered
    in every frame.
    """
    boxes = walk(200, 3)
    rng = np.random.default_rng(4)
    kept = rng.random(200) > 0.3
    popped, tracker = steady_boxes(
        [boxes[t][None] if kept[t] else np.zeros((0, 4)) for t in range(200)]
    )
    runs = [len(run) for run in "".join("01"[int(k)] for k in kept).strip("0").split("1")]
    assert (
        tracker.longest_gap == max(runs) > 1
        and tracker.tracks == 1
        and tracker.frames_without_face == 0
    )
    assert tracker.filled == (~kept).sum()
    for t in range(200):
        center = (popped[t][:, :2] + popped[t][:, 2:]) / 2
        half = (popped[t][:, 2:] - popped[t][:, :2]) * 0.8
        assert inside(boxes[t], np.concatenate([center - half, center + half], 1)), t


def swinging(n, width, period, side=60.0):
    """A head that swings to and fro, `width` sides to either: (n, 4)."""
    center = np.stack(
        [300 + side * width * np.sin(2 * np.pi * np.arange(n) / period), np.full(n, 200.0)], 1
    )
    return np.concatenate([center - side / 2, center + side / 2], 1)


def uncovered(boxes, popped):
    """Frames whose box does not lie in what is painted, 1.6 times one popped box."""
    painted = [
        (
            np.tile((b[:, :2] + b[:, 2:]) / 2, 2)
            + 0.8 * np.tile(b[:, 2:] - b[:, :2], 2) * [-1, -1, 1, 1]
        )
        for b in popped
    ]
    return [t for t, box in enumerate(boxes) if not inside(box, painted[t])]


def test_a_swinging_head_stays_covered_where_it_is_not_found(monkeypatch):
    """Ten frames missed, wherever the swing is: a straight line cuts the turn short, so boxes have
    to grow there.
    """
    boxes = swinging(60, 1, 36)

    def bad():
        return [
            uncovered(
                boxes,
                steady_boxes(
                    [
                        box[None] if not start <= t < start + 10 else np.zeros((0, 4))
                        for t, box in enumerate(boxes)
                    ]
                )[0],
            )
            for start in range(10, 28)
        ]

    assert bad() == [[]] * 18
    monkeypatch.setattr("ppad.tracks.MAX_GROWTH", 0.0)
    assert bad() != [[]] * 18  # the case is hard enough


def test_a_face_seen_before_and_after_is_covered_between():
    """Whatever was missed: every other frame of a fast face among others, whose boxes must not be
    taken for it.
    """
    face = swinging(61, 2, 30)
    other = swinging(61, 0.2, 20) + [0, 45, 0, 45]
    for parity in (0, 1):
        detections = [
            np.stack([other[t], face[t]] if t % 2 == parity else [other[t]]) for t in range(61)
        ]
        popped, _ = steady_boxes(detections)
        assert [t for t in uncovered(face, popped) if parity < t < 60 - parity] == []


def test_a_face_keeps_its_track_when_it_goes_on_fast():
    """It sets off slowly and then crosses 0.9 of its side a frame: too far for its last place, not
    for where it was going.
    """
    steps = np.concatenate([np.linspace(0, 54, 8), np.full(12, 54)])
    boxes = np.array([[10.0, 10, 70, 70]]) + np.cumsum(steps)[:, None] * [1, 0, 1, 0]
    popped, tracker = steady_boxes([box[None] for box in boxes])
    assert tracker.tracks == 1 and uncovered(boxes, popped) == []


def test_flicker_is_less_than_half():
    """Mean absolute change of box edges, on a still face whose box trembles."""
    boxes = walk(200, 5, speed=0.3)
    popped, _ = steady_boxes([box[None] for box in boxes])
    flicker = [np.abs(np.diff(path, axis=0)).mean() for path in (np.concatenate(popped), boxes)]
    assert flicker[0] < 0.35 * flicker[1]


@pytest.mark.parametrize("rate", [10, 30, 60, 240, 1000])
@pytest.mark.parametrize("seconds", [0.1, 0.4])
def test_a_face_missed_for_some_time_is_covered_at_every_rate(rate, seconds):
    """A head that swings by half its side each second is missed; so is its first quarter second."""
    boxes = swinging(2 * rate, 0.5, rate * 2)
    missed = range(rate, rate + round(seconds * rate))
    late = range(round(0.25 * rate))
    detections = [
        np.zeros((0, 4)) if t in missed or t in late else box[None] for t, box in enumerate(boxes)
    ]
    steady = Steady().at_rate(rate)
    assert steady.gap >= 15 and steady.hold >= 10
    popped, tracker = steady_boxes(detections, steady)
    assert uncovered(boxes, popped) == [] and tracker.tracks == 1


@pytest.mark.parametrize("odd", [[30], [30, 31], [30, 45], [1], [58, 59]])
def test_a_box_that_is_far_too_large_counts_in_its_own_frame_only(odd):
    """As when a face on a shirt is taken with the head: the box covers the torso in that frame."""
    boxes = walk(60, 7, speed=0.5, jitter=0.5)
    detections = boxes.copy()
    detections[odd] += np.array([-25, -10, 25, 50])
    popped, tracker = steady_boxes([box[None] for box in detections])
    plain, _ = steady_boxes([box[None] for box in boxes])
    assert tracker.tracks == 1
    for t in range(60):
        assert inside(detections[t], popped[t]) and inside(boxes[t], popped[t])
        if t not in odd:
            assert np.abs(popped[t] - plain[t]).max() < 3


def test_a_head_that_comes_near_is_no_outlier():
    """Doubled within half a second, then kept: smoothed and covered as ever."""
    side = np.concatenate([np.full(20, 40.0), np.linspace(40, 80, 15), np.full(25, 80.0)])
    boxes = 200 + np.stack([-side, -side, side, side], 1) / 2
    popped, tracker = steady_boxes([box[None] for box in boxes])
    assert tracker.tracks == 1 and all(inside(box, p) for box, p in zip(boxes, popped))
    for t in range(21, 28):
        assert inside(boxes[t + 3], popped[t] + [-0.1, -0.1, 0.1, 0.1])  # within the radius


def test_hold_reaches_before_and_after_and_no_further():
    box = np.array([[10.0, 10, 30, 30]])
    popped, tracker = steady_boxes(
        [box if t == 20 else np.zeros((0, 4)) for t in range(41)], Steady(gap=2, hold=5, radius=1)
    )
    assert [t for t, boxes in enumerate(popped) if len(boxes)] == list(range(15, 26))
    assert tracker.frames_without_face == 30 and tracker.filled == 10


def test_a_gap_one_longer_starts_a_new_track():
    box = np.array([[10.0, 10, 30, 30]])
    for missed, tracks in ((4, 1), (5, 2)):
        seen = [0, missed + 1]
        _, tracker = steady_boxes(
            [box if t in seen else np.zeros((0, 4)) for t in range(9)],
            Steady(gap=4, hold=0, radius=0),
        )
        assert tracker.tracks == tracks


def test_matching_takes_the_nearest_and_only_what_fits():
    last = np.array([[0.0, 0, 20, 20], [30, 0, 50, 20]])
    tracks = [Track(i, [0], [box]) for i, box in enumerate(last)]
    boxes = np.array([[28.0, 0, 48, 20], [3, 0, 23, 20], [0, 0, 90, 90], [300, 0, 320, 20]])
    assert match(tracks, boxes, 1) == {0: 1, 1: 0}
    far = np.array([[18.0, 0, 38, 20]])  # 0.9 sides off: out of reach at once, not after 5 frames
    assert match(tracks[:1], far, 1) == {} and match(tracks[:1], far, 5) == {0: 0}
    moving = Track(0, [0, 1], [last[0] - [18, 0, 18, 0], last[0]])
    assert match([moving], far, 2) == {0: 0}  # but where it was going it is in reach at once
    assert match([], far, 1) == {} and match(tracks, far[:0], 1) == {}


def test_memory_does_not_grow():
    tracker = Tracker()
    for t in range(400):
        tracker.push(np.array([[10.0, 10, 30, 30], [5.0 * t + 100, 0, 5 * t + 120, 20]]))
        while tracker.ready():
            tracker.pop()
    assert len(tracker._tracks) == 2 and all(len(track.frames) < 40 for track in tracker._tracks)


def test_bad_input():
    with pytest.raises(ValueError, match="gap is -1"):
        Steady(gap=-1)
    tracker = Tracker()
    for boxes in ([[0, 0, 1]], [[0, 0, np.nan, 1]], [[5, 0, 5, 1]]):
        with pytest.raises(ValueError, match="boxes"):
            tracker.push(boxes)
    with pytest.raises(ValueError, match="not known yet"):
        tracker.pop()


def test_a_lost_face_is_known_where_it_was_heading_until_its_track_is_over():
    none = np.zeros((0, 4))
    tracker = Tracker(Steady(gap=4))
    for t in range(3):
        tracker.push([[10.0 * t, 0, 10 * t + 60, 60], [400, 0, 460, 60]])
    for missed in range(7):
        ahead = [[10.0 * (3 + missed), 0, 10 * (3 + missed) + 60, 60], [400, 0, 460, 60]]
        over = missed > 4
        np.testing.assert_allclose(tracker.lost(none, 1), none if over else ahead)
        seen = np.array(ahead[1:])  # the second is there again
        np.testing.assert_allclose(tracker.lost(seen, 1), none if over else ahead[:1])
        assert len(tracker.lost(none, 3)) == (2 if 2 <= missed <= 4 else 0)
        tracker.push(none)
