"""The Anonymizer and the command.

A drawn "face" is a pure red square, and a stub finder knows red; so a face that got through is a
red pixel in the output, which no anonymizer here leaves. The last tests have real faces, where
there are weights.
"""

import dataclasses
import io
import itertools
import json
import math
import multiprocessing
import os
import signal
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from red_square import encode, ffmpeg, find_red, red
from test_reproduce import forked

from ppad import anonymize, crop_sampler, files, movies, mtcnn, players, repainter, ssh
from ppad.ffmpeg import sound_tracks
from ppad.repainter import Anonymizer
from ppad.tracks import Steady


def scene(x=30, y=20, side=16, size=(72, 96), face=True):
    """A gray-green frame with a red square whose corner is x, y."""
    frame = np.zeros((*size, 3), np.uint8)
    frame[..., 1] = np.linspace(60, 120, size[1])
    frame[..., 2] = 90
    if face:
        frame[y : y + side, x : x + side] = (255, 0, 0)
    return frame


def masked(**settings):
    return Anonymizer.from_method("mask", **{"finder": find_red, **settings})


def walk(n):
    return [scene(10 + t, 20 + t // 2) for t in range(n)]


# ---------------------------------------------------------------- pictures and frames


def test_picture_paints_the_enlarged_box_and_nothing_else():
    before = scene()
    kept = before.copy()
    person = masked()
    after = person.picture(before)
    changed = (after != before).any(2)
    expected = np.zeros_like(changed)
    expected[15:41, 25:51] = True  # (30, 20, 46, 46-10) about its center, 1.6 times: 25.2 ... 50.8
    assert (changed == expected).all() and (after[expected] == 0).all() and (before == kept).all()
    assert person.summary["faces"] == 1 and person.summary["frames"] == 1
    none = scene(face=False)
    np.testing.assert_array_equal(person.picture(none), none)
    assert person.summary["frames_without_face"] == 1


def test_crops_are_those_of_the_whole_frame():
    """Windows are an economy: where no squares overlap an anonymizer sees what `crop_faces` cuts
    from the whole frame, at rims and edges too.
    """
    frame = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    boxes = torch.tensor([[-5.0, -5, 20, 20], [36.8, 8, 49.8, 27], [60, 40, 75, 55]])
    squares = crop_sampler.face_squares(boxes)
    squares = squares[squares[:, 2].sub(squares[:, 0]).argsort()]  # the largest last
    whole = torch.tensor(frame).permute(2, 0, 1)[None] / 127.5 - 1
    outside = np.ones((50, 70), bool)
    for x0, y0, x1, y1 in squares.clamp(min=0).tolist():
        outside[int(y0) : int(np.ceil(y1)), int(x0) : int(np.ceil(x1))] = False
    for size in (None, 16, 64):
        seen = []

        def noted(crops, seen=seen):
            seen.extend(crops.split(1))
            return -crops

        noted.size = size
        after = Anonymizer(noted, finder=lambda frames: [boxes]).picture(frame)
        if size is None:
            cut = crop_sampler.cut_pixels(whole, [squares])
        else:
            cut = crop_sampler.crop_faces(whole, [squares], size).split(1)
        for crop, expected in zip(seen, cut, strict=True):
            torch.testing.assert_close(crop, expected, atol=1e-5, rtol=0)
        np.testing.assert_array_equal(after[outside], frame[outside])
        assert (after[~outside] != frame[~outside]).any(1).mean() > 0.8


def test_a_hand_made_method_works_on_the_frames_own_pixels():
    """Noise, lines and cells of the file's own resolution, not of a crop that was resampled."""
    frame = np.full((140, 140, 3), 128, np.uint8)
    noisy = Anonymizer.from_method("noise", finder=lambda frames: [[[20.0, 20, 100, 100]]])
    added = noisy.picture(frame).astype(float)
    black, white = (added == 0).mean(), (added == 255).mean()
    # Noise(0.5) on middle gray leaves the range to each side in 24 % of the 124 x 124 pixels.
    assert abs(black / (124 / 140) ** 2 - 0.24) < 0.02 and abs(white - black) < 0.02


def test_a_face_smaller_than_blurs_cells_is_blackened():
    frame = np.random.default_rng(0).integers(1, 256, (60, 60, 3), np.uint8)
    boxes = [[10.0, 10, 14, 14], [30.0, 30, 46, 46]]  # squares of 6 and of 26 pixels
    after = Anonymizer.from_method("blur", finder=lambda frames: [boxes]).picture(frame)
    assert (after[9:15, 9:15] == 0).all() and not (after[30:46, 30:46] == 0).all(2).any()
    assert (after[30:46, 30:46] != frame[30:46, 30:46]).any(2).mean() > 0.9


def test_a_small_box_does_not_show_again_what_a_large_one_hid():
    """The small one first, then the large one about it, whatever the finder's order."""
    frame = np.random.default_rng(0).integers(0, 256, (80, 80, 3), np.uint8)
    boxes = [[20.0, 20, 60, 60], [36.0, 36, 44, 44]]
    after = frame
    for box in boxes[::-1]:
        after = Anonymizer.from_method("blur", finder=lambda frames, b=box: [[b]]).picture(after)
    for both in (boxes, boxes[::-1]):
        at_once = Anonymizer.from_method("blur", finder=lambda frames, b=both: [b])
        np.testing.assert_array_equal(at_once.picture(frame), after)


def within_ellipse(side, part=1.0):
    """Which pixels (side, side) of a square lie in an ellipse about a face, or in a part of it."""
    axis = (np.arange(side) + 0.5) * 2 / side - 1
    return (axis / 0.58) ** 2 + (axis[:, None] / 0.68) ** 2 < part**2


class EllipseOnly:
    """Paints an ellipse black and leaves what is around it, as the M of `Ours` does."""

    def __init__(self, size):
        self.size = size

    def __call__(self, crops):
        inside = torch.tensor(within_ellipse(crops.shape[-1]))
        return torch.where(inside, -1.0, crops)


class KeepingEllipse(EllipseOnly):
    def next_frame(self, face, last=None, seconds=math.inf):
        return self(face), "same"


@pytest.mark.parametrize("painter", [EllipseOnly(None), EllipseOnly(64), KeepingEllipse(64)])
@pytest.mark.parametrize(
    "boxes",
    [
        [[40, 40, 140, 140], [128, 42, 224, 138]],  # cheek to cheek
        [[60, 60, 160, 160], [26, 26, 62, 62]],  # a small one in the large one's corner
        [[60, 60, 160, 160], [26, 26, 62, 62], [158, 60, 190, 92], [150, 150, 200, 200]],
    ],
)
def test_a_painted_face_is_not_shown_again_by_its_neighbor(painter, boxes):
    frame = scene(size=(240, 280), face=False)
    for x0, y0, x1, y1 in boxes:
        side = round(1.6 * (x1 - x0)) // 2 * 2
        top = (y0 + y1 - side) // 2
        left = (x0 + x1 - side) // 2
        frame[top : top + side, left : left + side][within_ellipse(side, 0.85)] = (255, 0, 0)
    assert red(frame).any()
    for order in (boxes, boxes[::-1]):
        person = Anonymizer(painter, finder=lambda frames, b=order: [b] * len(frames))
        assert not red(person.picture(frame)).any()
        assert not any(red(after).any() for after in person.frames([frame] * 3, rate=25))


def test_every_frame_is_covered_though_a_third_of_the_boxes_is_missing():
    rng = np.random.default_rng(1)
    frames = walk(60)
    for number, frame in enumerate(frames):
        frame[-1, 0, 2] = number  # a mark, far from the face
    person = masked(finder=lambda batch: [b if rng.random() > 0.3 else [] for b in find_red(batch)])
    after = list(person.frames(iter(frames)))
    assert len(after) == 60 and not any(red(frame).any() for frame in after)
    summary = person.summary
    assert (
        summary["frames"] == 60
        and summary["tracks"] == 1
        and summary["filled"] > 5
        and summary["longest_gap"] >= 1
    )
    assert [frame[-1, 0, 2] for frame in after] == list(range(60))  # in order


class Drawing:
    """Paints a face in one gray: at a track's first frame the next of 0, 10, 20 ..."""

    size = 8

    def __init__(self):
        self.next = 0
        self.seconds = []  # as given with each face but a track's first

    def next_frame(self, face, last=None, seconds=math.inf):
        if last is None:
            last = self.next
            self.next += 10
        else:
            self.seconds.append(seconds)
        return torch.full_like(face, last / 127.5 - 1), last


def test_a_person_keeps_one_drawn_face_in_a_movie_and_gets_another_in_the_next():
    def two_faces(batch):
        found = []
        for frame in batch:
            t = int(frame[-1, 0, 2])
            near = 6 + t / 2  # px, half a side: the larger face becomes the smaller one
            far = 12 - t / 2
            boxes = [(14 + t - near, 16 - near, 14 + t + near, 16 + near)]
            boxes.append((78 - t - far, 48 - far, 78 - t + far, 48 + far))
            found.append(boxes[:: 1 if t % 2 else -1])  # the finder's order tells nothing
        return found

    frames = [scene(face=False) for _ in range(12)]
    for number, frame in enumerate(frames):
        frame[-1, 0, 2] = number
    person = Anonymizer(Drawing(), finder=two_faces)
    for seen in (set(), {0, 10}):
        grays = []
        for t, after in enumerate(person.frames(iter(frames), rate=25)):
            grays.append((int(after[16, 14 + t, 0]), int(after[48, 78 - t, 0])))
        assert len(set(grays)) == 1  # the same pair in all frames
        assert len(set(grays[0]) - seen) == 2  # two people, and none as in the movie before
    singles = [person.picture(frames[0]) for _ in range(2)]
    assert len({int(after[16, 14, 0]) for after in singles}) == 2


@pytest.mark.parametrize("rate, seconds", [(25, 0.04), (50, 0.02), (None, math.inf)])
def test_an_anonymizer_that_follows_is_told_how_long_a_frame_lasts(rate, seconds):
    person = Anonymizer(Drawing(), finder=find_red)
    list(person.frames([scene()] * 9, rate=rate))
    assert person.anonymizer.next == 10  # one track
    assert person.anonymizer.seconds == [pytest.approx(seconds)] * 8


class SeldomFinder:
    """Knows red, but in a movie looks only at the first frame of each batch."""

    def __init__(self):
        self.batches = []

    def __call__(self, frames):
        return find_red(frames)

    def follow(self, frames):
        self.batches.append(len(frames))
        return [boxes if i == 0 else [] for i, boxes in enumerate(find_red(frames))]


def test_what_is_looked_for_seldom_is_covered_in_every_frame():
    finder = SeldomFinder()
    person = masked(finder=finder)
    assert not any(red(frame).any() for frame in person.frames(walk(40), rate=30))
    assert finder.batches == [6] * 6 + [4]
    assert person.summary["longest_gap"] == repainter.FRAMES_AT_ONCE - 1
    assert person.summary["frames_without_face"] == 0
    # Frames of which nothing is known: each is searched.
    assert not any(red(frame).any() for frame in person.frames(walk(9)))
    assert person.summary["longest_gap"] == 0
    person.picture(scene())
    assert len(finder.batches) == 7
    # A finder that cannot follow.
    assert not any(red(frame).any() for frame in masked().frames(walk(9), rate=30))


@pytest.mark.parametrize("rate, missed", [(25, 3), (240, 24), (1000, 100)])
def test_a_face_missed_for_a_tenth_of_a_second_is_covered(rate, missed):
    frames = [scene(10 + t // 20, 20) for t in range(3 * missed)]
    calls = itertools.count()

    def find(batch):
        numbers = [next(calls) for _ in batch]
        found = find_red(batch)
        return [[] if missed <= t < 2 * missed else found[i] for i, t in enumerate(numbers)]

    person = masked(finder=find)
    assert not any(red(frame).any() for frame in person.frames(frames, rate=rate))
    assert person.summary["longest_gap"] == missed


@pytest.mark.parametrize(
    "rate, every", [(2, 1), (7, 1), (10, 2), (24, 5), (25, 5), (Fraction(30000, 1001), 6), (60, 6)]
)
def test_how_often_a_movie_is_searched(rate, every):
    """Five times a second, and once in six frames at least."""
    finder = SeldomFinder()
    list(masked(finder=finder).frames([scene()] * 30, rate=rate))
    assert set(finder.batches[:-1]) == {every} and sum(finder.batches) == 30


class RedMTCNN:
    """A stand-in for MTCNN: knows red squares left of x = 60, and notes which frames it searches.

    It confirms a face where the box it is given is near one.
    """

    def __init__(self, min_face):
        self.config = mtcnn.MTCNNConfig(min_face)
        self.searched = []
        self.smallest = []

    def find(self, frames, min_face=None):
        self.searched += map(number_of, frames)
        self.smallest.append(min_face)
        boxes = [torch.tensor(one).float().reshape(-1, 4) for one in find_red(frames)]
        return [{"boxes": one[one[:, 0] < 60]} for one in boxes]

    def confirm(self, frames, boxes):
        (now,) = find_red(frames)
        now = torch.tensor(now).float().reshape(-1, 4)
        (places,) = boxes
        apart = (places[:, None, :2] - now[:, :2]).abs().amax(2)  # (k, n)
        face = (apart < 12).any(1) & (places[:, 0] < 60)
        seen = now[apart.argmin(1)] if len(now) else places
        return [{"face": face, "boxes": seen}]


def numbered(frames):
    for number, frame in enumerate(frames):
        frame[-1, -1, 2] = number
    return frames


def number_of(frame):
    """The number of one of the `numbered` scenes, or "part" for a part of it."""
    return int(frame[-1, -1, 2]) if frame.shape == scene().shape else "part"


class RedSSH:
    """A stand-in for SSH: knows all red squares, and notes which frames it searches."""

    def __init__(self):
        self.searched = []

    def find(self, frames, score):
        self.searched += map(number_of, frames)
        return [{"boxes": torch.tensor(one).float().reshape(-1, 4)} for one in find_red(frames)]


def follow(frames):
    """Boxes, and the numbers of the frames that MTCNN and SSH searched."""
    finder = ssh.RecallFinder(RedMTCNN(min_face=20), RedSSH())
    found = finder.follow(numbered([frame.copy() for frame in frames]))
    return [one.tolist() for one in found], finder.mtcnn.searched, finder.ssh.searched


def test_faces_are_followed_between_searches():
    frames = [scene(10 + 3 * t, 20) for t in range(6)]
    found, mtcnn, by_ssh = follow(frames)
    assert found == [np.array(one).tolist() for one in find_red(frames)]
    assert mtcnn == [0, "part"] and by_ssh == [3]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_both_detectors_search_however_few_the_frames(n):
    for x in (10, 70):  # seen by both and by SSH alone
        found, mtcnn, by_ssh = follow([scene(x, 20)] * n)
        assert mtcnn[0] == 0 and by_ssh == [n // 2]
        assert len(found) == n and len(found[n // 2]) == 1


def test_it_is_searched_about_a_lost_face_and_everywhere_after_a_cut():
    dark = scene(30, 20, face=False) // 3
    frames = [scene(10, 20), scene(30, 20), scene(30, 20), scene(30, 20), dark, scene(70, 20)]
    found, mtcnn, by_ssh = follow(frames)
    assert mtcnn == [0, "part", "part", 4, 5] and by_ssh == ["part", 3, 4, 5]
    assert found == [np.array(one).reshape(-1, 4).tolist() for one in find_red(frames)]


def test_a_new_face_is_searched_where_the_picture_has_changed():
    frames = [scene(40, 8, face=t >= 2) for t in range(6)]
    found, mtcnn, by_ssh = follow(frames)
    assert mtcnn == [0, "part"] and by_ssh == [3]
    assert found[2] == [] and found[3:] == [np.array(find_red(frames[3:4])[0]).tolist()] * 3
    rows, columns = ssh.changed(frames[0], frames[3])
    assert rows.start <= 8 and rows.stop >= 24 and columns.start <= 40 and columns.stop >= 56
    rows, columns = ssh.changed(frames[3], frames[3])  # nothing has
    assert frames[3][rows, columns].size


def test_mtcnn_looks_for_larger_faces_where_ssh_searches_too():
    finder = ssh.RecallFinder(RedMTCNN(min_face=30), RedSSH())
    finder.follow(numbered([scene(10, 20) for _ in range(6)]))
    assert finder.ssh.searched == [3] and finder.mtcnn.smallest == [None, 60]


def test_without_one_of_the_detectors_nothing_is_searched(monkeypatch, tmp_path):
    """SSH's weights come with the package; MTCNN alone would miss faces in silence."""
    monkeypatch.setattr(ssh.MTCNN, "load", lambda *folder, config: mtcnn.MTCNN(config))
    ssh.default_finder()
    monkeypatch.setattr(ssh, "__file__", str(tmp_path / "ssh.py"))
    with pytest.raises(ValueError, match="no SSH weights at"):
        ssh.default_finder()


def test_a_large_lost_face_is_looked_for_at_a_reduced_size():
    sizes = []

    class Noted(RedSSH):
        def find(self, frames, score):
            sizes.extend(frame.shape for frame in frames)
            return super().find(frames, score)

    frame = scene(100, 110, 120, size=(400, 500))
    finder = ssh.RecallFinder(RedMTCNN(min_face=20), Noted())
    (boxes,) = finder.closely([frame], [[140.0, 150, 260, 270]])
    np.testing.assert_allclose(boxes, find_red([frame])[0], atol=3)
    (boxes,) = finder.closely([frame], [[600.0, 0, 700, 100]])  # out of view
    assert boxes.shape == (0, 4)
    assert sizes and max(map(max, sizes)) <= 4 * 2 * 20 + 1  # the face at twice the smallest, 20
    sizes.clear()
    finder = ssh.RecallFinder(RedMTCNN(min_face=45), Noted())
    (boxes,) = finder.closely([frame], [[140.0, 150, 260, 270]])
    assert 4 * 80 < max(map(max, sizes)) <= 4 * 2 * 45 + 1


def test_a_face_that_only_ssh_sees_is_not_followed_and_costs_no_search():
    found, mtcnn, by_ssh = follow([scene(70, 20)] * 6)
    assert mtcnn == [0, "part"] and by_ssh == [3]
    assert [len(one) for one in found] == [0, 0, 0, 1, 0, 0]


class UprightRed:
    """A stand-in for MTCNN and SSH: knows bright red squares with a white mark on top only."""

    def __init__(self):
        self.seen = 0
        self.config = mtcnn.MTCNNConfig()

    def confirm(self, frames, boxes):
        return [{"face": torch.ones(len(boxes[0]), dtype=torch.bool), "boxes": boxes[0]}]

    def find(self, frames, least=None):  # the smallest face, or the lowest score
        self.seen += len(frames)
        found = []
        for frame, boxes in zip(frames, find_red(frames)):
            x0, y0, x1, _ = np.array(boxes).reshape(-1, 4)[0] if len(boxes) else (0, 0, 1, 1)
            marked = len(boxes) and frame[y0 - 2, (x0 + x1) // 2, 1] == 255
            found.append({"boxes": torch.tensor(boxes).float().reshape(-1, 4)[: int(marked)]})
        return found


def marked_scene(turns, brightness=1.0, **where):
    """`scene` whose square has a white mark on the side that `turns` quarter turns bring to top."""
    frame = scene(**where)
    frame[frame[..., 0] < 255] = (0, 90, 90)
    ys, xs = np.nonzero(red(frame))
    marks = [(ys.min() - 2, xs.mean()), (ys.mean(), xs.max() + 2)]
    marks += [(ys.max() + 2, xs.mean()), (ys.mean(), xs.min() - 2)]
    y, x = map(round, marks[turns])
    frame[y - 1 : y + 2, x - 1 : x + 2] = 255
    return (frame * brightness).astype(np.uint8)


@pytest.mark.parametrize("turns", [0, 1, 3])
def test_a_lying_face_in_a_picture_is_found(turns):
    before = marked_scene(turns, x=40, y=24)
    after = masked(finder=ssh.RecallFinder(UprightRed(), UprightRed())).picture(before)
    assert not red(after).any() and (after == before).mean() > 0.8


def test_a_known_face_seen_again_in_the_search_for_a_lost_one_gets_no_second_track():
    class Finder:
        """Sees one face always, a second at first only, and both when it looks closely."""

        def __call__(self, frames):
            return [[[10.0, 10, 50, 50], [60, 10, 90, 40]]] * len(frames)

        def follow(self, frames):
            second = [] if frames[0].any() else [[60.0, 10, 90, 40]]
            return [[[10.0, 10, 50, 50], *second]] * len(frames)

        def closely(self, frames, lost=None):
            return [[[13.0, 13, 53, 53], [40, 10, 70, 40]]] * len(frames)

    frames = [np.full((60, 100, 3), 9 * (t >= 6), np.uint8) for t in range(18)]
    person = Anonymizer(Drawing(), finder=Finder(), steady=Steady(gap=15, hold=0, radius=0))
    shown = [[number for number, _ in person.shown] for _ in person.frames(frames, rate=30)]
    assert shown == [[0, 1]] * 18  # the second goes on where it is found again, nothing is new
    assert person.summary["tracks"] == 2


def test_a_lying_face_in_a_movie_is_found_when_it_is_lost_or_nothing_is_found():
    """Five times a second, and no more often than that."""
    for start in (0, 30):  # upright before that
        frames = [marked_scene(1 if t >= start else 0, x=40, y=24) for t in range(60)]
        finder = ssh.RecallFinder(UprightRed(), UprightRed())
        person = masked(finder=finder)
        after = list(person.frames(frames, rate=30))
        assert not any(red(frame).any() for frame in after)
        assert finder.mtcnn.seen <= 60 / 3 + 4 * (60 - start) / 6 + 4
        assert finder.ssh.seen <= 60 / 6 + 4 * (60 - start) / 6 + 4
    upright = [marked_scene(0, x=40, y=24)] * 60
    finder = ssh.RecallFinder(UprightRed(), UprightRed())
    list(masked(finder=finder).frames(upright, rate=30))
    assert (finder.mtcnn.seen, finder.ssh.seen) == (20, 10)


def test_shadows_are_lifted():
    dark = np.arange(0, 24, dtype=np.uint8).reshape(2, 4, 3)
    lifted = ssh.lift_shadows(dark)
    assert 90 < lifted.mean() < 140 and (np.diff(lifted.ravel().astype(int)) >= 0).all()
    assert ssh.lift_shadows(np.full((2, 2, 3), 200, np.uint8)).min() > 200  # also backlit
    for value in (0, 255):
        assert (ssh.lift_shadows(np.full((2, 2, 3), value, np.uint8)) == value).all()


def test_lying_and_dark_real_faces(ppad_data):
    """Of 8 LFW pictures at most one face is missed, whichever way it lies, and in the dark."""
    if not (mtcnn.weights_folder() / "onet.pt").is_file():
        pytest.skip("no MTCNN weights: run data_scripts/get_weights.py")
    finder = ssh.default_finder(min_face=40)
    paths = sorted((ppad_data / "lfw" / "lfw-deepfunneled").rglob("*.jpg"))[::1655][:8]
    for change in (
        lambda frame: np.rot90(frame).copy(),
        lambda frame: np.rot90(frame, -1).copy(),
        lambda frame: (frame * 0.05).astype(np.uint8),
    ):
        found = 0
        for path in paths:
            (boxes,) = finder.closely([change(np.array(Image.open(path).convert("RGB")))])
            around = (boxes[:, :2] < 125).all(1) & (boxes[:, 2:] > 125).all(1)
            found += bool(around.any())
        assert found >= 7


def test_frames_are_read_only_a_little_ahead():
    read = []
    steady = Steady(gap=3, hold=2, radius=1)
    produced = masked(steady=steady).frames(
        read.append(t) or frame for t, frame in enumerate(walk(60))
    )
    for t in range(30):
        next(produced)
        assert len(read) <= t + 1 + steady.delay + 2 * repainter.FRAMES_AT_ONCE


def test_empty_tiny_and_odd_frames():
    assert list(masked().frames([])) == []
    np.testing.assert_array_equal(
        masked().picture(np.full((1, 1, 3), 7, np.uint8)), np.full((1, 1, 3), 7, np.uint8)
    )
    for frames in (
        [scene(), scene(size=(10, 10), face=False)],
        [scene().astype(float)],
        [scene()[..., 0]],
    ):
        with pytest.raises(ValueError, match="of one size"):
            list(masked().frames(frames))
    outside = Anonymizer.from_method(
        "mask", finder=lambda frames: [[[-50.0, -50, -10, -10], [200, 5, 220, 25]]]
    )
    np.testing.assert_array_equal(outside.picture(scene()), scene())
    assert masked().picture(Image.fromarray(scene()).convert("RGBA")).mode == "RGB"


# ---------------------------------------------------------------- fails closed


def broken(at, how):
    """A finder that fails whenever frame `at` (marked by its corner pixel) is among those it is
    given.
    """

    def find(frames):
        if any(frame[0, 0, 0] == at for frame in frames):
            return how(frames)
        return find_red(frames)

    return find


def out_of_memory(frames):
    raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize(
    "how",
    [
        out_of_memory,
        lambda frames: [],
        lambda frames: [[[0, 0, np.nan, 9]]] * len(frames),
        lambda frames: [[1, 2, 3]] * len(frames),
        lambda frames: None,
    ],
)
def test_a_frame_that_cannot_be_searched(how):
    frames = walk(30)
    frames[11][0, 0, 0] = 77
    with pytest.raises(ValueError, match="cannot be searched"):
        list(masked(finder=broken(77, how)).frames(frames))
    person = masked(finder=broken(77, how), on_error="cover")
    after = list(person.frames(frames))
    assert [t for t in range(30) if not after[t].any()] == [11] and person.summary[
        "frames_covered_whole"
    ] == 1
    assert not any(red(frame).any() for frame in after)


@pytest.mark.parametrize(
    "anonymizer", [lambda crops: crops * float("nan"), out_of_memory, lambda crops: crops[:, :, 1:]]
)
def test_a_face_that_cannot_be_repainted(anonymizer):
    with pytest.raises(ValueError, match="frame 0 cannot be repainted"):
        Anonymizer(anonymizer, finder=find_red).picture(scene())
    assert not Anonymizer(anonymizer, finder=find_red, on_error="cover").picture(scene()).any()
    with pytest.raises(ValueError, match="on_error"):
        Anonymizer(anonymizer, finder=find_red, on_error="ignore")


# ---------------------------------------------------------------- the command


@pytest.fixture
def command(monkeypatch, tmp_path):
    """command(words...) -> exit status, in an empty folder, with the stub finder."""
    monkeypatch.setattr(anonymize, "default_finder", lambda *a: find_red)
    monkeypatch.chdir(tmp_path)
    return lambda *words: anonymize.main([*map(str, words)])


def test_a_picture_by_command(command, capsys):
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "SecretCamera"
    Image.fromarray(scene()).transpose(Image.Transpose.ROTATE_90).save(
        "a.jpg", exif=exif, quality=95
    )
    before = Path("a.jpg").read_bytes()
    assert command("a.jpg", "--method", "mask", "--report", "r.json", "--preview", "p.png") == 0
    assert (
        Path("a.jpg").read_bytes() == before
        and b"Secret" not in Path("a_anonymized.jpg").read_bytes()
    )
    after = movies.read_picture("a_anonymized.jpg")
    assert (
        after.shape == scene().shape
        and not red(after).any()
        and not red(movies.read_picture("p.png")).any()
    )
    report = json.loads(Path("r.json").read_text())
    assert (
        report["files"][0]["faces"] == 1 and report["method"] == "mask" and report["not_done"] == []
    )
    assert "1 face" in capsys.readouterr().out
    assert (
        command("a.jpg", "--method", "mask") == 2 and "is there already" in capsys.readouterr().err
    )
    assert command("a.jpg", "--method", "blur", "--overwrite") == 0


@pytest.mark.parametrize("name", ["a.png", "a.gif", pytest.param("a.mp4", marks=ffmpeg)])
def test_what_appears_at_the_outputs_name_meanwhile_is_kept(command, capsys, monkeypatch, name):
    if name == "a.mp4":
        write_movie(name, walk(30))
    else:
        still = Image.fromarray(scene())
        more = [Image.fromarray(scene()[::-1])] if name == "a.gif" else []
        still.save(name, save_all=bool(more), append_images=more)

    def find_and_write(batch):
        Path(f"b{Path(name).suffix}").write_text("precious")
        return find_red(batch)

    monkeypatch.setattr(anonymize, "default_finder", lambda *a: find_and_write)
    out = Path(f"b{Path(name).suffix}")
    assert command(name, out) == 2
    assert f"{out} was written by something else in the meantime" in capsys.readouterr().err
    assert out.read_text() == "precious" and sorted(Path().iterdir()) == [Path(name), out]
    assert command(name, out, "--overwrite") == 0 and out.read_bytes() != b"precious"


@pytest.mark.parametrize("words", [[""], ["a.png", ""], ["a.png", "--out", ""], ["a", "--run", ""]])
def test_an_empty_name_is_not_the_folder_one_is_in(command, capsys, words):
    Image.fromarray(scene()).save("a.png")
    with pytest.raises(SystemExit, match="2"):
        command(*words)
    assert "is empty: give a name" in capsys.readouterr().err
    assert [path.name for path in Path().iterdir()] == ["a.png"]


def test_a_preview_that_cannot_be_written_does_not_cost_the_report(command, monkeypatch):
    def fail(sheet, path):
        raise movies.WriteError(f"cannot write {path}")

    monkeypatch.setattr(anonymize.Sheet, "save", fail)
    Image.fromarray(scene()).save("a.png")
    assert command("a.png", "--preview", "p.png", "--report", "r.json") == 2
    assert len(json.loads(Path("r.json").read_text())["files"]) == 1


def test_a_folder_by_command(command, capsys):
    Path("in/deep").mkdir(parents=True)
    Image.fromarray(scene()).save("in/a.png")
    Image.fromarray(scene()).save("in/deep/b.webp")
    Image.fromarray(scene()).save(
        "in/c.gif", save_all=True, append_images=[Image.fromarray(f) for f in walk(5)], duration=50
    )
    Path("in/bad.jpg").write_bytes(Path("in/a.png").read_bytes()[:60])
    Path("in/diary.txt").write_text("secret")
    assert command("in", "in/out", "--method", "mask") == 2  # also into itself
    printed = capsys.readouterr()
    assert (
        "3 done, 0 there already, 1 not done, 1 left out" in printed.out
        and "bad.jpg" in printed.err
    )
    made = sorted(str(path) for path in Path("in/out").rglob("*") if path.is_file())
    assert made == ["in/out/a.png", "in/out/c.gif", "in/out/deep/b.webp"]
    assert not any(red(frame).any() for frame in movies.read_animation("in/out/c.gif")[0])
    Path("in/bad.jpg").unlink()
    assert command("in", "in/out", "--method", "mask") == 0  # goes on: nothing is done twice
    assert "0 done, 3 there already" in capsys.readouterr().out


MASK = ("--method", "mask")


def contents():
    return {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}


def test_nothing_is_overwritten_or_written_twice(command, capsys):
    """Two inputs with one output name, outputs onto originals, reports onto either: refused."""
    Path("in/deep").mkdir(parents=True)
    for name in ("a.png", "b.png", "in/c.png", "in/deep/c.png", "in/x.ppm", "in/x.ppm.png"):
        Image.fromarray(scene()).save(name)
    os.link("in/c.png", "link.png")
    before = contents()
    for words, sentence in (
        (("in", "out"), "for in/x.ppm and in/x.ppm.png"),
        (("a.png", "b.png"), "--out FOLDER"),
        (("a.png", "in/c.png", "--out", "in"), "is an input"),
        (("in/c.png", "in/deep/c.png", "--out", "out"), "would be written twice"),
        (("a.png", "o.png", "--preview", "o.png"), "would be written twice"),
        (("a.png", "o.png", "--preview", "b.png"), "is there already"),
        (("a.png", "o.png", "--preview", "a.png", "--overwrite"), "is an input"),
        (("in/c.png", "link.png", "--overwrite"), "is an input"),
        (("a.png", "o.png", "--report", "a.png/r.json"), "cannot write"),
    ):
        assert command(*words, *MASK) == 2, words
        error = capsys.readouterr().err
        assert sentence in error and error.count("\n") == 1, (words, error)
        assert contents() == before
    with pytest.raises(SystemExit) as stop:
        command("a.png", "b.png", "in/c.png", *MASK)
    assert stop.value.code == 2 and "--out FOLDER" in capsys.readouterr().err
    assert contents() == before


@pytest.mark.parametrize(
    "words, original",
    [
        (("ph/2020", "ph"), "ph/sub/a.png"),
        (("ph/2020", "--out", "ph"), "ph/sub/a.png"),
        (("ph/2020/sub", "other", "--out", "ph"), "ph/sub/a.png"),
        (("ph/2020/sub/a.png", "other", "--out", "ph"), "ph/a.png"),
        (("ph/2020/sub/a.png", "other/c.png", "--out", "ph"), "ph/a.png"),
    ],
)
def test_an_original_above_an_input_is_not_replaced(command, capsys, words, original):
    """Its place is that of an output, as the output folder holds the input."""
    for number, name in enumerate(["ph/2020/sub/a.png", "other/c.png", original]):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene(number)).save(name)
    before = contents()
    for more in ((), ("--overwrite",)):
        assert command(*words, *MASK, *more) == 1
        printed = capsys.readouterr()
        assert f"{original} is there and may be an original" in printed.err
        assert " 0 there already" in printed.out
        assert {path: contents()[path] for path in before} == before


def test_what_is_there_already_is_not_said_to_be_made_now(command, capsys):
    """It may have been made by another method."""
    Path("in").mkdir()
    for name in ("in/a.png", "in/b.png"):
        Image.fromarray(scene()).save(name)
    made = "was made earlier, perhaps with other settings: "
    assert command("in/a.png", "--out", "out", *MASK) == 0
    assert made not in capsys.readouterr().out
    for words in (("in", "out"), ("in", "--out", "out")):
        assert command(*words, "--method", "blur", "--report", "r.json") == 0
        printed = capsys.readouterr().out
        assert (
            "1 done, 1 there already" in printed and f"{made}--overwrite replaces it\n" in printed
        )
        report = json.loads(Path("r.json").read_text())
        assert report["there_already"] == 1 and report["made_earlier"] == [
            os.path.join("out", "a.png")
        ]
        assert [one["input"] for one in report["files"]] == [os.path.join("in", "b.png")]
        Path("out/b.png").unlink()
        Path("r.json").unlink()


def test_several_inputs(command, capsys):
    for name in ("a.png", "b.webp", "in/c.png", "other/c.png"):
        Path(name).parent.mkdir(exist_ok=True)
        Image.fromarray(scene()).save(name)
    assert command("a.png", "b.webp", "in", "other", "--out", "new/out", *MASK) == 0
    assert "4 done" in capsys.readouterr().out
    made = sorted(str(path) for path in Path("new").rglob("*") if path.is_file())
    assert made == ["new/out/a.png", "new/out/b.webp", "new/out/in/c.png", "new/out/other/c.png"]
    assert not any(red(movies.read_picture(name)).any() for name in made)


def test_what_is_left_out_is_listed(command, capsys, monkeypatch):
    """By content: odd suffixes are read, others are named with the reason; media: status 1."""
    Path("in/deep").mkdir(parents=True)
    Path("elsewhere").mkdir()
    Image.fromarray(scene()).save("elsewhere/e.png")
    picture = Image.fromarray(scene())
    kinds = {"a.jfif": "JPEG", "b.jpe": "JPEG", "noname": "PNG", "odd.xyz": "WEBP", "p.ppm": "PPM"}
    kinds |= {"q.txt": "JPEG", "r.jpg.bak": "TIFF"}
    if ".avif" in movies.FORMATS:
        kinds["c.avif"] = "AVIF"
    for name, form in kinds.items():
        picture.save(f"in/{name}", form, quality=95)
    Path("in/._a.jpg").write_bytes(b"\0\5\26\7")
    Path("in/diary.txt").write_text("words")
    assert command("in", "out", *MASK) == 0
    made = sorted(path.name for path in Path("out").iterdir())
    names = {name: f"{name}.png" for name in ("noname", "odd.xyz", "p.ppm", "q.txt", "r.jpg.bak")}
    assert made == sorted(names.get(name, name) for name in kinds)
    assert not any(red(movies.read_picture(Path("out", name))).any() for name in made)
    capsys.readouterr()
    heic = b"\0\0\0\x18ftypheic" + bytes(40)
    left = {"a.heic": heic, "b": heic, "c.jp2": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(9)}
    for name, data in left.items():
        Path("in", name).write_bytes(data)
    left["linked"] = None
    os.symlink(Path("elsewhere").resolve(), "in/linked")
    if hasattr(os, "mkfifo"):
        os.mkfifo("in/pipe.mp4")
        left["pipe.mp4"] = None
    picture.save("in/pages.tif", save_all=True, append_images=[picture, picture])
    Path("out/pages.tif").write_bytes(Path("in/pages.tif").read_bytes())  # an original left there
    assert command("in", "out", *MASK, "--report", "r.json") == 1
    printed = capsys.readouterr()
    report = json.loads(Path("r.json").read_text())
    reasons = {Path(one["input"]).name: one for one in report["left_out"]}
    assert set(reasons) == {*left, "diary.txt", "pages.tif"}
    assert all(reasons[name]["media"] for name in reasons if name != "diary.txt")
    assert "linked folder" in reasons["linked"]["reason"]
    assert "is a copy of it" in reasons["pages.tif"]["reason"]
    for name in reasons:
        assert name in printed.err
    for path in Path("in").iterdir():
        if path.name in left:
            path.unlink()
    Path("out/pages.tif").unlink()
    Path("out/a.jfif").unlink()
    Path("out/a.jfif").mkdir()
    Path("out/b.jpe").unlink()
    os.symlink("nowhere", "out/b.jpe")
    assert command("in", "out", *MASK) == 1
    printed = capsys.readouterr()
    assert "left out: pages 2 to 3" in printed.out
    for name in ("a.jfif", "b.jpe"):  # not there already
        assert f"in/{name}: out/{name} is there and is not a file" in printed.err


@pytest.mark.parametrize("where", ["open", "stat", "scandir"])
def test_a_file_that_may_not_be_read_is_left_out_by_name(command, capsys, monkeypatch, where):
    """And the others are done. Root may read everything, so a refusal is pretended."""
    Path("in/deep").mkdir(parents=True)
    for name in ("in/a.png", "in/deep/b.png", "in/c.png"):
        Image.fromarray(scene()).save(name)
    refused = Path("in/deep" if where == "scandir" else "in/deep/b.png")

    def guarded(work):
        def refuse(path, *arguments, **options):
            if isinstance(path, (str, Path)) and Path(path) == refused:
                raise PermissionError(13, "Permission denied", str(path))
            return work(path, *arguments, **options)

        return refuse

    if where == "open":
        monkeypatch.setattr(Image, "open", guarded(Image.open))
    else:  # of a file in a folder that may be listed, but not entered; or not listed
        monkeypatch.setattr(os, where, guarded(getattr(os, where)))
    assert command("in", "out", *MASK) == 1
    printed = capsys.readouterr()
    reason = "not a readable file" if where == "stat" else "Permission denied"
    assert f"left out: {refused}: " in printed.err and reason in printed.err
    assert printed.err.count("left out") == 1
    assert not red(movies.read_picture("out/c.png")).any()


def test_an_input_that_may_not_be_read(command, capsys, monkeypatch):
    def refuse(path, *arguments, **options):
        raise PermissionError(13, "Permission denied", str(path))

    Image.fromarray(scene()).save("a.png")
    sentence = (
        "ppad.anonymize: a.png cannot be read (Permission denied): check or replace the file\n"
    )
    for owner, name in ((Image, "open"), (os.path, "isdir")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, refuse)
            assert command("a.png", *MASK) == 2
        assert capsys.readouterr().err == sentence


def test_what_was_made_before_is_no_input(command, capsys):
    """Where the outputs of several inputs lie in one of them."""
    for name in ("a/1.png", "b/2.png"):
        Path(name).parent.mkdir()
        Image.fromarray(scene()).save(name)
    for done in (2, 0):
        assert command("a", "b", "--out", "a/out", *MASK) == 0
        assert f"{done} done, {2 - done} there already" in capsys.readouterr().out
    before = contents()
    assert command("a", "b", "--out", "a", *MASK) == 2  # would mix them
    assert "a is the input or a file: name another folder" in capsys.readouterr().err
    assert contents() == before


def test_an_output_that_is_as_its_input_may_be_right(command, capsys):
    """A picture without a face that Pillow wrote comes out the same to the byte."""
    Path("in").mkdir()
    Image.fromarray(scene(face=False)).save("in/a.png")
    assert command("in", "out", *MASK) == 0
    assert Path("in/a.png").read_bytes() == Path("out/a.png").read_bytes()
    assert command("in", "out", *MASK) == 1
    sentence = "out/a.png is a copy of it, or no face was found: delete it to write it again"
    assert sentence in capsys.readouterr().err


def test_out_is_a_folder(command):
    """A shell's *.png may stand for a single one."""
    Image.fromarray(scene()).save("a.png")
    assert command("a.png", "--out", "new/folder", *MASK) == 0
    assert not red(movies.read_picture("new/folder/a.png")).any()


@pytest.mark.parametrize("suffix", [".tga", ".ico", ".pcx"])
def test_a_picture_of_a_format_that_is_not_read_is_not_called_broken(command, capsys, suffix):
    name = f"a{suffix}"
    Image.fromarray(scene()).save(name)
    assert command(name, *MASK) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"ppad.anonymize: {name} ") and ": convert " in error


def test_a_folder_of_what_nothing_reads_here(command, capsys):
    """Each file is named, with the reason."""
    Path("in").mkdir()
    for name in ("in/a.heic", "in/b.heic"):
        Path(name).write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    assert command("in", *MASK, "--report", "r.json") == 1
    error = capsys.readouterr().err
    assert "left out: in/a.heic: " in error and "left out: in/b.heic: " in error
    assert len(json.loads(Path("r.json").read_text())["left_out"]) == 2


def test_a_preview_of_nothing_and_a_report_onto_a_folder(command, capsys):
    Path("in").mkdir()
    Image.fromarray(scene()).save("in/a.png")
    assert command("in", "out", *MASK) == 0
    capsys.readouterr()
    assert command("in", "out", *MASK, "--preview", "p.png") == 0
    assert "p.png was not written" in capsys.readouterr().err and not Path("p.png").exists()
    Path("r.json").mkdir()
    assert command("in", "new", *MASK, "--report", "r.json", "--overwrite") == 2
    error = capsys.readouterr().err
    assert "r.json is there already: choose another name" in error
    assert not Path("new").exists()


def test_names(command, capsys, tmp_path, monkeypatch):
    """The folder itself, its parent as output, long and odd names, a report in a new folder."""
    Path("in").mkdir()
    for name in ("a.png", f"{'x' * 251}.png", os.fsdecode(b"\xff\xfe.png"), "ü€.png"):
        Image.fromarray(scene()).save(f"in/{name}")
    monkeypatch.chdir("in")
    assert command(".", *MASK, "--report", "../new/deep/r.json") == 0
    assert "4 done" in capsys.readouterr().out and len(os.listdir("../in_anonymized")) == 4
    assert json.loads(Path("../new/deep/r.json").read_text())["method"] == "mask"
    Path("sub").mkdir()
    Path("a.png").rename("sub/s.png")
    monkeypatch.chdir("sub")
    assert command(".", "..", *MASK) == 0  # the parent, which holds other pictures
    assert "1 done" in capsys.readouterr().out and Path("../s.png").exists()
    Path("s.png").rename("ü€.png")  # there is another photo of that name above
    original = Path("../ü€.png").read_bytes()
    for more in ((), ("--overwrite",)):
        assert command(".", "..", *MASK, *more) == 1
        assert "../ü€.png is there and may be an original" in capsys.readouterr().err
        assert Path("../ü€.png").read_bytes() == original
    long = f"{'y' * 251}.png"
    Image.fromarray(scene()).save(long)
    assert command(long, *MASK) == 2  # its name with _anonymized is too long
    error = capsys.readouterr().err
    assert "too long): choose a shorter name" in error and error.count("\n") == 1
    assert error.startswith("not done: yyy") and "cannot write yyy" in error
    stderr = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")  # a terminal of few characters
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.chdir(tmp_path)
    assert command("ü.png", "v€.png", *MASK) == 2
    assert command("顔.png", *MASK) == 2
    stderr.flush()
    first, second = stderr.buffer.getvalue().splitlines()
    assert first.startswith(b"ppad.anonymize: \xfc.png is not there")
    assert second.startswith(b"ppad.anonymize: \\u9854.png is not there")
    with pytest.raises(ValueError, match="min_face is nan"):
        mtcnn.MTCNN(mtcnn.MTCNNConfig(min_face=float("nan")))


@pytest.mark.skipif(os.name == "nt", reason="there are no such signals on Windows")
@pytest.mark.parametrize("name", files.STOPS)
def test_a_signal_leaves_no_file(tmp_path, name):
    Image.fromarray(scene()).save(
        tmp_path / "a.gif", save_all=True, append_images=[Image.fromarray(f) for f in walk(90)]
    )
    number = getattr(signal, name)
    here, there = multiprocessing.Pipe()

    def slow(frames):
        there.send("found")
        time.sleep(0.1)
        return [[] for _ in frames]

    def job():
        signal.signal(number, signal.SIG_DFL)  # nohup ignores SIGHUP
        os.chdir(tmp_path)
        anonymize.default_finder = lambda *a: slow
        return anonymize.main(["a.gif", "b.gif", "--method", "mask"])

    process = forked(job)
    for _ in range(5):
        assert here.poll(60) and here.recv() == "found"
    os.kill(process.pid, number)
    process.join(60)
    assert process.exitcode == 128 + number and os.listdir(tmp_path) == ["a.gif"]


def test_bad_input_by_command(command, capsys, monkeypatch):
    """Each with one sentence and status 2, and nothing written."""
    Image.fromarray(scene()).save("a.png")
    Path("empty.png").write_bytes(b"")
    Path("half.png").write_bytes(Path("a.png").read_bytes()[:90])
    Path("nothing").mkdir()
    os.link("a.png", "other_name.png")
    if hasattr(os, "mkfifo"):
        os.mkfifo("pipe.png")
        assert command("pipe.png") == 2
        assert "pipe.png is not there, or not a readable file" in capsys.readouterr().err
    files = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    mask = ("--method", "mask")
    for words, sentence in (
        (("none.png", *mask), "is not there"),
        (("empty.png", *mask), "empty.png holds no picture and no movie"),
        (("half.png", *mask), "cannot be read"),
        (("nothing", *mask), "no picture and no movie"),
        (("a.png", "a.png", *mask), "is an input"),
        (("a.png", "other_name.png", *mask, "--overwrite"), "is an input"),
        (("a.png", "a.doc", *mask), "name that ends in"),
        (("a.png", "a.png/b.png", *mask), "cannot write"),
        (("a.png", "b.png", *mask, "--report", "a.png"), "ends in .json"),
        (("a.png", "b.png", *mask, "--preview", "a.png"), "is an input"),
        (("a.png", *mask, "--run", "r"), "leave one of the two out"),
        *[(("a.png", "b.png", *mask, "--device", "cuda"), "no GPU")]
        * (not torch.cuda.is_available()),
        (("a.png", "--run", "nowhere"), "players.pt does not exist"),
        (("a.png", "--run", "other_name.png"), "is a file: name the folder of a finished"),
        *[
            (("a.png", "b.png", *mask, "--device", device), f"device is '{device}': use cpu, cuda")
            for device in ("xpu", "hpu", "meta", "tpu", "gpu", "")
        ],
    ):
        assert command(*words) == 2, words
        error = capsys.readouterr().err
        assert sentence in error and error.count("\n") == 1, (words, error)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert command("a.png", *mask) == 2 and "exceeds limit" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == files
    for words in (("a.png", "--method", "smear"), ("a.png", "--frames", "3"), ()):
        with pytest.raises(SystemExit) as stop:
            command(*words)
        assert stop.value.code == 2


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write to read-only folders"
)
def test_a_read_only_folder(command, capsys):
    Image.fromarray(scene()).save("a.png")
    Path("locked").mkdir(mode=0o500)
    assert (
        command("a.png", "locked/b.png", "--method", "mask") == 2
        and "cannot write" in capsys.readouterr().err
    )


def test_a_failing_finder_leaves_no_file(command, monkeypatch, capsys):
    monkeypatch.setattr(anonymize, "default_finder", lambda *a: out_of_memory)
    Image.fromarray(scene()).save(
        "a.gif", save_all=True, append_images=[Image.fromarray(f) for f in walk(20)]
    )
    assert (
        command("a.gif", "b.gif", "--method", "mask") == 2
        and "out of memory" in capsys.readouterr().err
    )
    assert sorted(os.listdir()) == ["a.gif"]
    assert command("a.gif", "b.gif", "--method", "mask", "--on_error", "cover") == 0
    assert not any(frame.any() for frame in movies.read_animation("b.gif")[0])


@pytest.mark.parametrize("where", ["read_picture", "save_picture", "read_animation"])
def test_a_file_that_memory_does_not_suffice_for(command, monkeypatch, capsys, where):
    """It is named, and the others are done; also in a frame of it."""
    Path("in").mkdir()
    for name in ("in/a.png", "in/b.png"):
        Image.fromarray(scene()).save(name)
    frames = [Image.fromarray(frame) for frame in walk(5)]
    frames[0].save("in/c.gif", save_all=True, append_images=frames[1:])
    of = "c.gif" if where == "read_animation" else "a.png"
    work = getattr(movies, where)

    def fail(path, *arguments):
        if path.name == of:
            raise MemoryError
        return work(path, *arguments)

    monkeypatch.setattr(movies, where, fail)
    assert command("in", "out", *MASK) == 2
    printed = capsys.readouterr()
    assert f"not done: in/{of}: not enough memory: " in printed.err and "2 done" in printed.out
    assert command(f"in/{of}", "--out", f"single/{of}", *MASK) == 2
    error = capsys.readouterr().err
    assert error == f"not done: in/{of}: not enough memory: end other programs\n"
    monkeypatch.setattr(movies, where, work)
    monkeypatch.setattr(anonymize, "default_finder", lambda *a: out_of_memory)
    assert command("in", "new", *MASK) == 2
    error = capsys.readouterr().err
    assert all(f"not done: in/{name}: frame 0" in error for name in ("a.png", "b.png", "c.gif"))


def test_m_of_a_run(command, tiny, tmp_path, capsys):
    """`from_run` repaints with that run's M: its own weights, sizes and device; a run without M is
    refused.
    """
    folder = tmp_path / "runs/toy"
    folder.mkdir(parents=True)
    Image.fromarray(scene()).save("a.png")
    assert (
        command("a.png", "--run", "runs/toy") == 2
        and "players.pt does not exist" in capsys.readouterr().err
    )
    torch.manual_seed(0)
    modifier = players.make_modifier(tiny())
    fields = dataclasses.asdict(tiny())
    torch.save(
        {"config": fields, "parts": {"modifier": modifier.state_dict()}}, folder / "players.pt"
    )
    assert command("a.png", "--run", "runs/toy") == 0
    feather = repainter.FEATHER
    expected = Anonymizer(modifier.eval(), finder=find_red, feather=feather).picture(scene())
    np.testing.assert_array_equal(movies.read_picture("a_anonymized.png"), expected)
    for held in (
        {"config": fields, "parts": {}},
        {"config": {"no_such_field": 1}, "parts": {}},
        [],
    ):
        torch.save(held, folder / "players.pt")
        with pytest.raises(ValueError, match="does not hold M"):
            Anonymizer.from_run("runs/toy", finder=find_red)
    with pytest.raises(ValueError, match="unknown"):
        Anonymizer.from_method("smear", finder=find_red)


def test_progress_and_preview(capsys, monkeypatch):
    monkeypatch.setattr(anonymize, "SECONDS_BETWEEN_LINES", -1)
    anonymize.Progress("a.mp4")(50, 100)
    assert "a.mp4: frame 50/100, 0:00 left" in capsys.readouterr().err
    sheet = repainter.Sheet()
    for t in range(1000):
        sheet.show(scene(), [] if t % 2 else [(0, np.array([10, 10, 20, 20 + t / 50]))])
    for samples in (sheet.frames, sheet.empty):
        assert 12 <= len(samples.kept) <= 24 and samples.kept[0].width <= 240
    assert sheet.empty.seen == 500 and len(sheet.crops) == 1


def test_the_preview_shows_every_track_and_empty_frames(command, tmp_path):
    """Of two faces, one small, and frames without any: crops of both, and these frames."""
    two = scene()
    two[50:54, 80:84] = (255, 0, 0)

    def find(frames):
        both = [[[30, 20, 46, 36], [80, 50, 84, 54]] for _ in frames]
        return [boxes if red(frame).any() else [] for frame, boxes in zip(frames, both)]

    person = Anonymizer.from_method("mask", finder=find)
    sheet = repainter.Sheet()
    for frame in person.frames([two] * 20 + [scene(face=False)] * 30):
        sheet.show(frame, person.shown)
    assert len(sheet.crops) == 2 and 12 <= len(sheet.empty.kept) <= 24
    assert sheet.empty.seen == 20  # ten more are held
    small = np.asarray(sheet.crops[0, 1][1])
    assert small.shape == (120, 120, 3) and (small[40:80, 40:80] == 0).all()
    sheet.save(tmp_path / "p.png")
    assert not red(movies.read_picture(tmp_path / "p.png")).any()
    sheet = repainter.Sheet()
    for file in (1, 2):
        sheet.file = file
        sheet.show(scene(), [(0, np.array([1.0, 1, 5, 5]))])
    assert len(sheet.crops) == 2


def test_the_preview_says_how_many_tracks_it_does_not_show(tmp_path, monkeypatch):
    titles = []
    grid = repainter.grid
    monkeypatch.setattr(repainter, "CROPS", 2)
    monkeypatch.setattr(repainter, "grid", lambda *a: titles.append(a[0]) or grid(*a))
    sheet = repainter.Sheet()
    for _ in range(2):
        sheet.show(scene(), [(track, np.array([1.0, 1, 5, 5])) for track in range(3)])
    sheet.save(tmp_path / "p.png")
    assert titles == ["1 of 1 frames", "2 of 3 tracks"]


def test_the_preview_shows_a_face_larger_than_pillow_crops(monkeypatch):
    frame = np.zeros((900, 1000, 3), np.uint8)
    frame[50:850, 100:900] = 255
    box = np.array([100.0, 50, 900, 850])
    sheet = repainter.Sheet()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300_000)  # twice as many may be cropped
    sheet.show(frame, [(0, box)])
    shown = np.asarray(sheet.crops[0, 0][1])[..., 0] > 127
    expected = np.zeros((120, 120), bool)
    expected[30:90, 30:90] = True  # half of each side
    assert (shown == expected).all()


def test_quality_and_threshold(command, capsys):
    noise = np.random.default_rng(0).integers(0, 140, (99, 99, 3), np.uint8)  # no face
    Image.fromarray(noise).save("a.png")
    for suffix in (".jpg", ".webp"):
        for quality in (30, 95):
            assert command("a.png", f"{quality}{suffix}", *MASK, "--quality", quality) == 0
        assert os.path.getsize(f"30{suffix}") < 0.7 * os.path.getsize(f"95{suffix}")
    for words in (("--quality", "0"), ("--quality", "101"), ("--threshold", "high")):
        with pytest.raises(SystemExit):
            command("a.png", "b.png", *words)
    for quality in ("0", "101", "x", "-3", "9.5"):
        with pytest.raises(SystemExit) as stop:
            command("a.png", "b.png", *MASK, f"--quality={quality}")
        error = capsys.readouterr().err
        assert "--quality" in error and stop.value.code == 2
    with pytest.raises(ValueError, match="threshold is nan"):
        ssh.default_finder(threshold=float("nan"))
    if (mtcnn.weights_folder() / "onet.pt").is_file():
        finder = ssh.default_finder(threshold=0.7)
        assert finder.mtcnn.config.thresholds == pytest.approx((0.6, 0.7, 0.7))
        assert finder.ssh_score == pytest.approx(0.6)


@pytest.mark.parametrize("place", [(30, 20), (0, 20), (30, 0), (80, 56)])
def test_the_feathered_edge_leaves_nothing_of_the_face(place):
    """Also of one that the frame's border cuts off; outside the square nothing changes."""
    x, y = place
    before = scene(x, y)
    plain = Anonymizer(lambda crops: -torch.ones_like(crops), finder=find_red)
    soft = Anonymizer(lambda crops: -torch.ones_like(crops), finder=find_red, feather=0.1)
    hard = plain.picture(before)
    after = soft.picture(before)
    assert (after[y : y + 16, x : x + 16] == 0).all() and not red(after).any()
    unchanged = (hard == before).all(2)
    np.testing.assert_array_equal(after[unchanged], before[unchanged])
    between = (after > hard).any(2)
    assert between.any() and ((after <= before) | (after <= hard)).all()


@pytest.mark.parametrize(
    "place, border",
    [((4, 20), (28, 0)), ((30, 4), (0, 38)), ((76, 20), (28, 95)), ((30, 52), (71, 38))],
)
def test_a_square_that_just_crosses_the_frames_border_does_not_fade_there(place, border):
    soft = Anonymizer(lambda crops: -torch.ones_like(crops), finder=find_red, feather=0.1)
    assert (soft.picture(scene(*place))[border] == 0).all()


# ---------------------------------------------------------------- movies


def write_movie(path, frames, sound=True, options=()):
    tone = ["-f", "lavfi", "-i", f"sine=f=440:d={len(frames) / 25}", "-c:a", "aac"] if sound else []
    encode(path, frames, *tone, "-c:v", "libx264", "-crf", "10", *options)


@ffmpeg
def test_a_movie_by_command(command, capsys, monkeypatch):
    rng = np.random.default_rng(3)
    monkeypatch.setattr(
        anonymize,
        "default_finder",
        lambda *a: lambda batch: [b if rng.random() > 0.3 else [] for b in find_red(batch)],
    )
    write_movie("a.avi", walk(50))
    assert command("a.avi", "--method", "mask", "--report", "r.json", "--preview", "p.png") == 0
    assert ", 1 track, longest gap" in capsys.readouterr().out
    after = list(movies.read_movie("a_anonymized.avi.mp4", movies.probe("a_anonymized.avi.mp4")))
    assert 50 <= len(after) <= 52 and not any(
        red(frame).any() for frame in after
    )  # .avi starts two frames late
    (one,) = json.loads(Path("r.json").read_text())["files"]
    assert (
        one["frames"] == len(after) and one["frames_without_face"] == 0 and one["kind"] == "movie"
    )
    assert (
        command("a.avi", "b.gif", "--method", "mask") == 2
        and "a movie needs a name" in capsys.readouterr().err
    )
    calls = iter(range(99))  # fails when half of the movie is in ffmpeg's hands
    monkeypatch.setattr(
        anonymize,
        "default_finder",
        lambda *a: lambda batch: find_red(batch) if next(calls) < 5 else out_of_memory(batch),
    )
    assert (
        command("a.avi", "c.mp4", "--method", "mask") == 2
        and "out of memory" in capsys.readouterr().err
    )
    assert not list(Path().glob("*c.mp4*"))


@ffmpeg
@pytest.mark.parametrize("how", ["start", "middle", "sound", "drop"])
def test_odd_movies_by_command(command, capsys, how):
    """Cut off before a keyframe, damaged, an unknown sound track, no sound: all is said."""
    write_movie("a.ts", walk(50), options=("-g", "10"))
    data = bytearray(Path("a.ts").read_bytes())
    name = "b.ts"
    options = []
    if how == "start":
        data = data[188 * (len(data) // 188 // 6) :]
    if how == "middle":
        data[len(data) // 2 : len(data) // 2 + 6000] = bytes(6000)
    Path(name).write_bytes(data)
    if how == "sound":
        write_movie("b.mov", walk(50), options=("-c:a", "pcm_s16le"))
        Path("b.mov").write_bytes(Path("b.mov").read_bytes().replace(b"sowt", b"zzzz"))
        name = "b.mov"
    if how == "drop":
        options = ["--sound", "drop"]
    if how == "middle":
        assert command(name, "c.mp4", "--method", "mask") == 2
        assert "--on_error cover" in capsys.readouterr().err and not Path("c.mp4").exists()
        options = ["--on_error", "cover"]
    status = command(name, "c.mp4", "--method", "mask", "--report", "r.json", *options)
    assert status == (how == "sound")  # something was left out
    printed = capsys.readouterr().out
    (one,) = json.loads(Path("r.json").read_text())["files"]
    frames = list(movies.read_movie("c.mp4", movies.probe("c.mp4")))
    assert not any(red(frame).any() for frame in frames)
    tracks, _ = sound_tracks("c.mp4")
    assert len(tracks) == (how in ("start", "middle"))
    unreadable = one["frames_unreadable"]
    if how in ("start", "middle"):
        said = f"{unreadable} covered whole ({unreadable} cannot be decoded)"
        assert 0 < unreadable <= 25 and said in printed
        assert sum(not frame.any() for frame in frames) >= unreadable
        assert sum(frame.any() for frame in frames) >= 20
    else:
        doubled = (
            how == "drop"
        )  # the first one: in this .ts the sound begins half a frame before it
        assert unreadable == 0 and len(frames) == 50 + doubled
    assert ("left out: sound track 1" in printed) == (how == "sound")


@ffmpeg
def test_frames_of_a_movie_are_searched_at_its_rate_and_those_of_an_animation_each_by_itself(
    tmp_path,
):
    finder = SeldomFinder()
    write_movie(tmp_path / "a.mkv", walk(14))
    anonymize.anonymize_file(masked(finder=finder), tmp_path / "a.mkv", tmp_path / "b.mkv")
    movie = movies.probe(tmp_path / "a.mkv")
    every = round(movie.rate / repainter.LOOKS_A_SECOND)
    starts = range(0, movie.count, every)
    assert finder.batches == [min(every, movie.count - start) for start in starts]
    movies.save_animation(tmp_path / "a.gif", iter(walk(14)), [100] * 14, 0)
    anonymize.anonymize_file(masked(finder=finder), tmp_path / "a.gif", tmp_path / "b.gif")
    assert sum(finder.batches) == movie.count  # no further batch


@ffmpeg
@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL on Windows")
def test_kill_in_the_middle_leaves_no_output(tmp_path):
    """kill -9 after some frames: no output under its name; what lies beside it under a temporary
    one shows no face.
    """
    write_movie(tmp_path / "a.mkv", walk(50) * 4)
    here, there = multiprocessing.Pipe()

    def slow(frames):
        there.send("found")
        time.sleep(0.05)
        return find_red(frames)

    def job():
        os.chdir(tmp_path)
        anonymize.anonymize_file(masked(finder=slow), "a.mkv", "b.mkv")

    process = forked(job)
    for _ in range(12):
        assert here.poll(60) and here.recv() == "found"
    process.kill()
    process.join()
    assert not (tmp_path / "b.mkv").exists()
    for _ in range(50):  # ffmpeg ends by itself, its pipe being closed
        left = next(tmp_path.glob(".b.mkv.*.part"), None)
        if left and left.stat().st_size:
            break
        time.sleep(0.1)
    time.sleep(0.5)
    frames = list(movies.read_movie(left, movies.probe(left), stop=False))
    assert frames and not any(red(frame).any() for frame in frames)


# ---------------------------------------------------------------- real faces


@ffmpeg
def test_a_real_clip_is_covered_and_does_not_flicker(ppad_data):
    """30 frames of a signing person, a third of the detections dropped.

    What is found on the originals lies in what is painted, in every frame; and box edges change at
    most half as much as those of per-frame detection.
    """
    folder = (
        mtcnn.weights_folder()
        if (mtcnn.weights_folder() / "onet.pt").is_file()
        else ppad_data / "weights"
    )
    clip = ppad_data / "clips" / "help.mkv"
    if not (folder / "onet.pt").is_file() or not clip.is_file():
        pytest.skip(
            "no MTCNN weights or no clips: run data_scripts/get_weights.py, "
            "or set PPAD_DATA to a folder with clips/"
        )
    frames = list(movies.read_movie(clip, movies.probe(clip)))[:30]
    detector = mtcnn.MTCNN.load(
        folder, mtcnn.MTCNNConfig(min_face=60)
    )  # this clip's face is about 90 px
    found = [one["boxes"][one["scores"] > 0.95].numpy() for one in detector.find(np.stack(frames))]
    assert all(len(boxes) for boxes in found)
    rng = np.random.default_rng(0)
    upcoming = iter(found)

    def dropping(batch):
        detections = [next(upcoming) for _ in batch]
        return [boxes[rng.random(len(boxes)) > 0.3] for boxes in detections]

    after = list(Anonymizer.from_method("mask", finder=dropping).frames(frames))
    for boxes, frame in zip(found, after):
        for x0, y0, x1, y1 in np.clip(boxes, 0, (640, 480, 640, 480)):
            assert not frame[int(np.ceil(y0)) : int(y1), int(np.ceil(x0)) : int(x1)].any()
    tracker = repainter.Tracker()
    popped = []
    for boxes in found:
        tracker.push(boxes[:1])
    tracker.finish()
    while tracker.ready():
        popped.append(tracker.pop()[0])
    flicker = [
        np.abs(np.diff(np.array(path), axis=0)).mean()
        for path in (popped, [boxes[0] for boxes in found])
    ]
    assert flicker[0] <= 0.5 * flicker[1], flicker
