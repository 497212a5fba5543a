"""datasets: sets, the toy builders, the batch sampler and the batches, against pictures by hand."""

import contextlib
import dataclasses
import itertools
import multiprocessing
import os
import pickle
import shutil
import signal
import threading
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_reproduce import read, run, truncate

from ppad import crop_sampler, datasets, files, folders, optim
from ppad.datasets import (
    ActionSet,
    BatchSampler,
    FaceSet,
    batches,
    read_actions,
    read_faces,
    read_pairs,
    toy_actions,
    toy_faces,
    toy_pairs,
)
from ppad.files import DataError
from ppad.folders import BOX_COLUMNS, POINT_COLUMNS

NAMES = [f"A/A_{i:04d}" for i in (1, 2)]


# ---------------------------------------------------------------- sets


def marked_faces():
    """Two 20 px faces; the pixel under landmark k has the red value 40 (k + 1)."""
    points = torch.tensor([[5, 6], [14, 7], [10, 10], [6, 15], [13, 16]])
    images = torch.zeros(2, 3, 20, 20, dtype=torch.uint8)
    for k, (x, y) in enumerate(points.tolist()):
        images[:, 0, y, x] = 40 * (k + 1)
    return FaceSet(images, (points + 0.5).float().repeat(2, 1, 1), torch.tensor([0, 0]), NAMES)


def under(face, point):
    return round((face[0, int(point[1]), int(point[0])].item() + 1) * 127.5)


def test_face_batch_is_float_in_range_and_in_order():
    faces, points, people = marked_faces().batch(torch.tensor([1, 0, 1]))
    assert (
        faces.shape == (3, 3, 20, 20) and points.shape == (3, 5, 2) and people.tolist() == [0, 0, 0]
    )
    assert faces.dtype == torch.float32 and faces.min() == -1
    assert [under(faces[0], p) for p in points[0]] == [40, 80, 120, 160, 200]


def test_mirror_moves_pixels_and_landmarks_together_and_swaps_left_with_right():
    faces, points, _ = marked_faces().batch(torch.tensor([0, 1]), torch.tensor([True, False]))
    # now the other eye is image-left
    assert [under(faces[0], p) for p in points[0]] == [
        80,
        40,
        120,
        200,
        160,
    ]
    assert [under(faces[1], p) for p in points[1]] == [40, 80, 120, 160, 200]
    assert (points[:, 0, 0] < points[:, 1, 0]).all() and (points[:, 3, 0] < points[:, 4, 0]).all()
    assert points[0, 0].tolist() == [20 - 14.5, 7.5]


def save(path, lines):
    path.write_text("\n".join(lines) + "\n")
    return path


def painted(box, width=40, height=30):
    frame = torch.zeros(3, height, width, dtype=torch.uint8)
    x0, y0, x1, y1 = box
    frame[:, y0:y1, x0:x1] = 255
    return frame


def action_set(boxes=((4, 6, 20, 28),), labels=(2,), faces=((8, 8, 18, 18),), size=(40, 30)):
    return ActionSet(
        painted((4, 6, 20, 28), *size)[None],
        [torch.tensor(boxes).float()],
        [torch.tensor(labels)],
        [torch.tensor(faces).reshape(-1, 4).float()],
        ["frame 7"],
        ["walk", "phoning"],
    )


def test_action_batch_and_its_mirror_keep_the_box_on_the_paint():
    for mirror in (None, torch.tensor([False]), torch.tensor([True])):
        frames, targets, regions = action_set().batch(torch.tensor([0]), mirror)
        x0, y0, x1, y1 = (int(v) for v in targets[0]["boxes"][0])
        assert (frames[0, :, y0:y1, x0:x1] == 1).all() and (frames > 0).sum() == 3 * (x1 - x0) * (
            y1 - y0
        )
        assert targets[0]["labels"].tolist() == [2]
        # By hand: 10 px about (13, 13), times 1.6, is 5..21; mirrored in 40 px, 19..35.
        assert (
            regions[0].tolist() == [[19, 5, 35, 21]]
            if mirror is not None and mirror[0]
            else [[5, 5, 21, 21]]
        )


def test_regions_are_squares_that_are_never_clipped_and_may_be_absent():
    actions = action_set(faces=((0, 0, 10, 10), (-4, 2, 4, 12)))
    squares = [[-3, -3, 13, 13], [-8, -1, 8, 15]]  # 16 px about (5, 5) and about (0, 7)
    assert actions.face_boxes[0].tolist() == [[0, 0, 10, 10], [-4, 2, 4, 12]]  # as found
    assert actions.batch(torch.tensor([0]))[2][0].tolist() == squares
    _, _, mirrored = actions.batch(torch.tensor([0]), torch.tensor([True]))
    assert mirrored[0].tolist() == [[40 - x1, y0, 40 - x0, y1] for x0, y0, x1, y1 in squares]
    wider = dataclasses.replace(actions, face_scale=2.0)
    assert wider.regions[0].tolist() == [[-5, -5, 15, 15], [-10, -3, 10, 17]]
    _, _, none = action_set(faces=()).batch(torch.tensor([0]), torch.tensor([True]))
    assert none[0].shape == (0, 4)


def test_regions_are_made_once_and_not_in_every_batch(monkeypatch):
    actions = action_set()
    monkeypatch.setattr(datasets, "face_squares", lambda *_: pytest.fail("made again"))
    actions.batch(torch.tensor([0]))


def test_a_face_and_a_region_are_cut_alike(tmp_path):
    """F and V at one rule: the same picture with the same box gives M the same face."""
    x, y = np.meshgrid(np.arange(120), np.arange(90))
    ramp = np.stack([x * 2, y * 2, x + y], 2).astype(np.uint8)
    (tmp_path / "f/p").mkdir(parents=True)
    Image.fromarray(ramp).save(tmp_path / "f/p/1.png")
    box = (50.0, 20.0, 70.0, 60.0)  # a tall face near the top: 64 px about (60, 40)
    points = "52,30,66,30,60,40,54,50,66,50"
    columns = ",".join(["file", *folders.BOX_COLUMNS, *folders.POINT_COLUMNS])
    table = save(tmp_path / "t.csv", [columns, f"p/1.png,50,20,70,60,{points}"])
    actions = ActionSet(
        torch.from_numpy(ramp).permute(2, 0, 1)[None],
        [torch.tensor([[0.0, 0, 120, 90]])],
        [torch.tensor([1])],
        [torch.tensor([box])],
        ["p/1"],
        ["walk"],
    )
    for scale in (1.6, 2.5):  # 2.5 times reaches over the upper and the lower edge
        faces = read_faces(tmp_path / "f", table, 32, face_scale=scale)
        frames, _, regions = dataclasses.replace(actions, face_scale=scale).batch([0])
        crop = crop_sampler.crop_faces(frames, regions, 32)
        assert (crop - faces.batch([0])[0]).abs().max() < 0.05


def test_a_box_a_hair_outside_is_clipped():
    assert action_set(boxes=((-0.5, 6, 40.8, 30.9),)).boxes[0].tolist() == [[0, 6, 40, 30]]


# ---------------------------------------------------------------- toy builders


def test_toy_faces():
    faces = toy_faces(3, range(5, 9), 2, size=32)
    assert (
        len(faces) == 8
        and faces.pictures.shape == (8, 3, 32, 32)
        and faces.pictures.dtype == torch.uint8
    )
    assert (
        faces.identities.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
        and faces.names[3] == "toy_0006/toy_0006_0002"
    )
    again = toy_faces(3, range(6, 7), 2, size=32)  # the same person of the same world, drawn alone
    assert torch.equal(again.pictures, faces.pictures[2:4]) and torch.equal(
        again.landmarks, faces.landmarks[2:4]
    )
    assert not torch.equal(toy_faces(4, range(6, 7), 2, size=32).pictures, again.pictures)


def test_toy_actions_are_balanced_and_apart():
    train = toy_actions(0, 40, 80, range(4))
    test = toy_actions(0, 10, 80, range(4, 6), start=40)
    assert torch.cat(train.labels).bincount().tolist() == [0] + [4] * 10
    assert train.pictures.shape == (40, 3, 80, 80) and not set(train.names) & set(test.names)
    # scene 0 is not scene 40
    assert not torch.equal(toy_actions(0, 1, 80, range(4, 5)).pictures, test.pictures[:1])
    frames, targets, faces = train.batch(torch.arange(40))
    assert frames.min() >= -1 and frames.max() <= 1 and all(len(t["boxes"]) == 1 for t in targets)
    assert {len(f) for f in faces} <= {0, 1}


def people_of(faces, pairs, fold):
    return set(
        faces.identities[
            torch.cat([pairs.first[pairs.folds == fold], pairs.second[pairs.folds == fold]])
        ].tolist()
    )


def blank_faces(people, each):
    ids = torch.arange(people).repeat_interleave(each)
    return FaceSet(
        torch.zeros(len(ids), 3, 1, 1, dtype=torch.uint8),
        torch.zeros(len(ids), 5, 2),
        ids,
        [""] * len(ids),
    )


@pytest.mark.parametrize("people, own", [(20, True), (6, False)])
def test_toy_pairs_are_balanced_and_unique(people, own):
    faces = blank_faces(people, 6)
    pairs = toy_pairs(faces, folds=5, per_fold=12, seed=1)
    assert len(pairs) == 120 and torch.equal(
        pairs.same, faces.identities[pairs.first] == faces.identities[pairs.second]
    )
    for fold in range(5):
        assert (pairs.folds == fold).sum() == 24 and pairs.same[pairs.folds == fold].sum() == 12
    assert len({frozenset(p) for p in zip(pairs.first.tolist(), pairs.second.tolist())}) == 120
    assert (pairs.first != pairs.second).all()
    met = [people_of(faces, pairs, fold) for fold in range(5)]
    assert (sum(map(len, met)) == len(set.union(*met))) == own
    assert torch.equal(pairs.first, toy_pairs(faces, 5, 12, seed=1).first)
    assert not torch.equal(pairs.first, toy_pairs(faces, 5, 12, seed=2).first)


def test_toy_pairs_from_too_few_faces():
    with pytest.raises(DataError, match="9 pairs of one person.*20"):
        toy_pairs(blank_faces(3, 3), folds=2, per_fold=10)


# ---------------------------------------------------------------- sets read from folders


@pytest.fixture
def folder(tmp_path):
    """Twelve noisy pictures of three people with boxes, some over the edge; twelve frames."""
    chance = np.random.default_rng(0)
    corners = ",".join(BOX_COLUMNS)
    faces = [f"file,{corners},{','.join(POINT_COLUMNS)}"]
    boxes = [f"file,{corners}"]
    people = [f"file,split,action,width,height,{corners}"]
    for i in range(12):
        width, height = ((60, 50), (40, 64), (48, 48))[i % 3]
        pixels = Image.fromarray(chance.integers(0, 256, (height, width, 3), dtype=np.uint8))
        name = f"P{i // 4}/P{i // 4}_{i % 4:04d}.png"
        x = -6 + 3 * i % 20
        for place in (tmp_path / "faces" / name, tmp_path / "frames" / f"{i}.png"):
            place.parent.mkdir(parents=True, exist_ok=True)
            pixels.save(place)
        points = ",".join(f"{v}" for v in (10, 12, 25, 12, 18, 20, 12, 28, 24, 28 + i / 8))
        faces.append(f"{name},{x},5,{x + 30},{35 + i},{points}")
        people.append(
            f"{i}.png,train,{'walk' if i % 2 else 'sit'},{width},{height},4,6,20,{28 + i / 4}"
        )
        boxes.append(f"{i}.png,6,8,16,{18 + i / 2}")
    for table, lines in (("faces.csv", faces), ("people.csv", people), ("boxes.csv", boxes)):
        (tmp_path / table).write_text("\n".join(lines) + "\n")
    return tmp_path


def faces_of(folder, **how):
    return read_faces(folder / "faces", folder / "faces.csv", 32, **how)


def actions_of(folder, **how):
    return read_actions(
        folder / "frames", folder / "people.csv", folder / "boxes.csv", "train", (48, 64), **how
    )


def assert_equal(a, b):
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b)
    elif isinstance(a, dict):
        assert_equal([*a.items()], [*b.items()])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b):
            assert_equal(x, y)
    else:
        assert a == b


each = pytest.mark.parametrize("reader", [faces_of, actions_of])


# ---------------------------------------------------------------- in memory or in files


@each
@pytest.mark.parametrize("workers", [1, 5])
def test_pictures_in_files_are_those_in_memory(folder, reader, workers):
    held = reader(folder)
    lazy = reader(folder, memory=0, workers=workers)
    assert (
        lazy.lazy and not held.lazy and len(lazy) == len(held) == 12 and lazy.nbytes == held.nbytes
    )
    assert lazy.names == held.names and lazy.skipped == held.skipped == []
    for indices in (
        torch.tensor([7, 0, 7, 11]),
        torch.arange(12),
        torch.tensor([], dtype=torch.long),
    ):
        for mirror in (None, torch.rand(len(indices)) < 0.5):
            assert_equal(held.batch(indices, mirror), lazy.batch(indices, mirror))


def test_floats_are_the_batches_pictures(folder):
    for faces in (faces_of(folder), faces_of(folder, memory=0)):
        pictures, _, _ = faces.batch(torch.arange(12))
        assert torch.equal(faces.floats()[3:9], pictures[3:9]) and len(faces.floats()) == 12
        assert torch.equal(faces.floats()[torch.tensor([5, 1])], pictures[[5, 1]])


@each
def test_memory_is_a_limit_in_bytes(folder, reader):
    size = 12 * 3 * (32 * 32 if reader is faces_of else 48 * 64)
    assert not reader(folder, memory=size).lazy and reader(folder, memory=size - 1).lazy
    one, how = (
        (8 * 3 * 32 * 32, {"people": 2}) if reader is faces_of else (5 * 3 * 48 * 64, {"limit": 5})
    )
    # of what is asked for
    assert not reader(folder, memory=one, **how).lazy and reader(folder, memory=one - 1, **how).lazy


@each
def test_a_picture_spoilt_later_is_named_and_replaced_by_nothing(folder, reader):
    lazy = reader(folder, memory=0)
    place = folder / ("faces/P1/P1_0001.png" if reader is faces_of else "frames/5.png")
    whole = place.read_bytes()
    truncate(place)
    with pytest.raises(DataError, match=f"{place.name}: cannot be read.*same command again"):
        lazy.batch(torch.tensor([2, 5]))
    assert len(lazy.batch(torch.tensor([2, 4]))[0]) == 2  # the others are not touched
    place.unlink()
    with pytest.raises(DataError, match=f"{place.name}: there is no such picture"):
        lazy.batch(torch.tensor([5]))
    place.write_bytes(whole)
    assert_equal(lazy.batch(torch.tensor([5])), reader(folder).batch(torch.tensor([5])))


@each
def test_a_picture_spoilt_before_is_skipped_by_name_whatever_holds_the_others(folder, reader):
    truncate(folder / "faces/P1/P1_0001.png")
    (folder / "frames/5.png").unlink()
    for memory in (0, 1e9):
        with pytest.raises(DataError, match="P1_0001.png|5.png"):
            reader(folder, memory=memory)
        some = reader(folder, memory=memory, on_bad="skip")
        assert len(some) == len(some.names) == 11 and len(some.skipped) == 1
        assert ("P1_0001.png" if reader is faces_of else "5.png") in some.skipped[0]
        assert_equal(
            some.batch(torch.tensor([5])), reader(folder, on_bad="skip").batch(torch.tensor([5]))
        )


@each
@pytest.mark.parametrize("workers", [0, 2])
def test_a_picture_exchanged_later_is_seen(folder, reader, workers, monkeypatch):
    """Another whole picture of the same size, in a run that reads them batch by batch."""
    monkeypatch.setattr(datasets, "MAX_LOADERS", workers)
    lazy = reader(folder, memory=0, workers=2)
    places = [Path(source[0]) for source in lazy.pictures.sources[:2]]
    content = [path.read_bytes() for path in places]
    places[0].write_bytes(content[1])
    with pytest.raises(DataError, match="has changed since .*same command again"):
        lazy.batch(torch.tensor([0]))
    with pytest.raises(DataError, match="has changed since it was first read"):
        for _ in itertools.islice(batches(lazy, 4, seed=0), 3):
            pass
    places[0].write_bytes(content[0])
    lazy.batch(torch.tensor([0]))


@each
def test_the_fingerprint_is_of_the_data_wherever_they_lie(folder, reader, tmp_path_factory):
    known = reader(folder).fingerprint()
    place = tmp_path_factory.mktemp("moved") / "elsewhere"
    shutil.copytree(folder, place)
    assert reader(place).fingerprint() == reader(place, memory=0).fingerprint() == known
    place = place / ("faces/P1/P1_0001.png" if reader is faces_of else "frames/5.png")
    content = place.read_bytes()
    with Image.open(place) as picture:
        picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(place)
    place = place.parents[2 if reader is faces_of else 1]
    assert reader(place).fingerprint() != known  # another picture of the same name and size
    for path in place.rglob("P1_0001.png" if reader is faces_of else "5.png"):
        path.write_bytes(content)
    assert reader(place).fingerprint() == known
    table = place / ("faces.csv" if reader is faces_of else "people.csv")
    old, new = (",10,12,", ",11,12,") if reader is faces_of else ("4,6,20", "5,6,20")
    table.write_text(table.read_text().replace(old, new, 1))
    assert reader(place).fingerprint() != known


def test_drawn_sets_are_known_by_preset_and_seed(tiny_faces, tiny_actions):
    assert tiny_faces.fingerprint() == tiny_actions.fingerprint() == "drawn"


def test_a_person_without_usable_pictures_leaves_no_gap(folder, monkeypatch):
    for name in ("P0/P0_0001.png", "P1/P1_0000.png", "P1/P1_0001.png"):
        truncate(folder / "faces" / name)
    for chunk in (1, 3, 128):
        monkeypatch.setattr(folders, "CHUNK", chunk)
        faces = faces_of(folder, people=3, pictures_each=2, on_bad="skip", workers=4)
        assert faces.names == ["P0/P0_0000", "P2/P2_0000", "P2/P2_0001"]
        assert [line.split("/")[-1][:7] for line in faces.skipped] == [
            "P0_0001",
            "P1_0000",
            "P1_0001",
        ]
        assert len(faces.pictures) == 3 and faces.identities.tolist() == [0, 1, 1]


def test_a_long_reading_says_how_far_it_is(folder, monkeypatch, capsys):
    faces_of(folder)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(folders, "SECONDS_BETWEEN_LINES", -1)
    monkeypatch.setattr(folders, "CHUNK", 6)
    faces_of(folder, memory=0)
    _, line = capsys.readouterr().err.splitlines()  # and nothing once it is done
    assert f"{folder / 'faces'}: 6 of 12 pictures read" == line


# ---------------------------------------------------------------- on a device


@each
def test_pictures_are_on_the_device_and_what_is_known_of_them_on_the_cpu(folder, reader):
    """The meta device holds no values, and refuses to be mixed with tensors that do."""

    def kinds(batch):
        if isinstance(batch, torch.Tensor):
            return {batch.device.type}
        return set().union(*map(kinds, batch.values() if isinstance(batch, dict) else batch))

    for memory in (0, 1e9):
        for mirror in (None, torch.tensor([True, False])):
            pictures, *rest = reader(folder, memory=memory).batch(
                torch.tensor([1, 2]), mirror, "meta"
            )
            assert (
                pictures.device.type == "meta"
                and pictures.dtype == torch.float32
                and kinds(rest) == {"cpu"}
            )


# ---------------------------------------------------------------- the batch sampler


def steps(sampler, count):
    """The first `count` parts that iteration gives, as (indices, mirror flags)."""
    return [tuple(zip(*part)) for part in itertools.islice(sampler, count)]


def test_every_epoch_is_a_permutation_with_the_rest_dropped():
    sampler = BatchSampler(11, 4, seed=5)
    epochs = []
    for epoch in range(50):
        order = torch.cat([sampler.batch(2 * epoch)[0], sampler.batch(2 * epoch + 1)[0]])
        assert len(set(order.tolist())) == 8 and 0 <= order.min() and order.max() < 11
        epochs.append(tuple(order.tolist()))
    assert len(set(epochs)) > 45  # reshuffled
    assert set(sum(epochs, ())) == set(range(11))  # nothing is dropped for good


def test_every_index_comes_once_an_epoch():
    sampler = BatchSampler(12, 3, seed=0)
    for epoch in range(3):
        order = torch.cat([sampler.batch(4 * epoch + i)[0] for i in range(4)])
        assert sorted(order.tolist()) == list(range(12))


def test_about_half_are_mirrored():
    sampler = BatchSampler(8, 8, seed=0)
    share = torch.cat([sampler.batch(step)[1] for step in range(250)]).float().mean()
    assert abs(share - 0.5) < 0.05  # 2,000 coins: 4.5 standard deviations


def test_a_batch_is_a_function_of_seed_and_step():
    """Whatever was asked before, and whatever else draws random numbers."""
    plain = [BatchSampler(10, 3, seed=9).batch(step) for step in range(12)]
    sampler = BatchSampler(10, 3, seed=9, start=4)
    state = torch.get_rng_state()
    for step in (7, 0, 11, 3, 3, 8):
        torch.rand(3)
        np.random.rand(3)
        indices, mirror = sampler.batch(step)
        assert torch.equal(indices, plain[step][0]) and torch.equal(mirror, plain[step][1])
    torch.set_rng_state(state)
    sampler.batch(20)
    assert torch.equal(state, torch.get_rng_state())
    others = [BatchSampler(10, 3, seed=seed).batch(0)[0].tolist() for seed in (0, 1, 2, -1, 10**12)]
    assert len(set(map(tuple, others))) == 5
    first_batches = [tuple(BatchSampler(40, 40, 0).batch(step)[0].tolist()) for step in range(9)]
    assert len(set(first_batches)) == 9


@pytest.mark.parametrize("start", [0, 1, 5, 6, 40])
def test_to_start_at_a_step_is_to_skip_those_before(start):
    unbroken = steps(BatchSampler(10, 3, seed=9), start + 8)
    assert steps(BatchSampler(10, 3, seed=9, start=start), 8) == unbroken[start:]
    sampler = BatchSampler(10, 3, seed=9, start=start)
    assert steps(sampler, 8) == steps(sampler, 8)  # iteration leaves no trace


@pytest.mark.parametrize("world_size", [2, 3])
def test_the_parts_of_all_processes_make_the_whole_batch(world_size):
    whole = steps(BatchSampler(20, 6, seed=1, start=2), 7)
    parts = [
        steps(BatchSampler(20, 6, seed=1, start=2, rank=rank, world_size=world_size), 7)
        for rank in range(world_size)
    ]
    for step, (indices, mirror) in enumerate(whole):
        assert indices == sum((part[step][0] for part in parts), ())
        assert mirror == sum((part[step][1] for part in parts), ())
        assert all(len(part[step][0]) == 6 // world_size for part in parts)


def test_batches_that_cannot_be_are_refused():
    for size in (0, 6):
        with pytest.raises(ValueError, match="batch_size is .: give 1 to 5"):
            BatchSampler(5, size, seed=0)
    with pytest.raises(
        ValueError, match="2 processes cannot share a batch of 3 equally.*2 divides"
    ):
        BatchSampler(5, 3, seed=0, world_size=2)


# ---------------------------------------------------------------- batches


@each
@pytest.mark.parametrize("memory, workers", [(1e9, 4), (0, 4), (0, 0), (0, 1), (0, 2)])
def test_batches_are_those_of_the_sampler_wherever_they_are_made(
    folder, reader, memory, workers, monkeypatch
):
    monkeypatch.setattr(datasets, "MAX_LOADERS", workers)
    data = reader(folder, memory=memory, workers=2)
    sampler = BatchSampler(12, 5, seed=1)
    state = torch.get_rng_state()
    for start in (0, 3):
        stream = batches(data, 5, seed=1, start=start)
        for step in range(start, start + 7):  # across the ends of epochs
            assert_equal(list(reader(folder).batch(*sampler.batch(step))), list(next(stream)))
    assert torch.equal(state, torch.get_rng_state())  # a run that goes on draws what it would have


@each
def test_each_process_gets_its_part(folder, reader, monkeypatch):
    data = reader(folder)
    whole = next(batches(data, 4, seed=1))
    monkeypatch.setattr(optim, "world_size", lambda: 2)
    parts = []
    for rank in (0, 1):
        monkeypatch.setattr(optim, "rank", lambda rank=rank: rank)
        parts.append(next(batches(data, 4, seed=1)))
    assert_equal(whole[0], torch.cat([part[0] for part in parts]))
    with pytest.raises(ValueError, match="2 processes cannot share a batch of 3"):
        next(batches(data, 3, seed=1))


def test_a_set_in_memory_needs_no_process_and_a_lazy_one_has_a_few(folder, monkeypatch):
    asked = []
    monkeypatch.setattr(
        datasets, "DataLoader", lambda *a, **how: asked.append(how["num_workers"]) or []
    )
    list(batches(faces_of(folder), 3, 0))
    for count, threads in ((2, 1), (2, 3), (64, 3), (64, 16)):
        monkeypatch.setattr(os, "cpu_count", lambda count=count: count)
        list(batches(faces_of(folder, memory=0, workers=threads), 3, 0))
    assert asked == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_picture_spoilt_later_stops_the_batches_at_its_turn(folder, workers, monkeypatch):
    monkeypatch.setattr(datasets, "MAX_LOADERS", workers)
    data = faces_of(folder, memory=0, workers=2)
    order = BatchSampler(12, 2, seed=0)
    path = Path(data.pictures.sources[int(order.batch(2)[0][1])][0])
    truncate(path)
    stream = batches(data, 2, seed=0)
    next(stream)
    next(stream)
    with pytest.raises(DataError) as raised:
        next(stream)
    text = str(raised.value)
    assert text.startswith(f"{path}: cannot be read") and text.endswith("same command again")


def test_ctrl_c_does_not_end_the_processes_that_the_step_under_way_needs(folder):
    before = {child.pid for child in multiprocessing.active_children()}
    stream = batches(faces_of(folder, memory=0, workers=2), 2, seed=0)
    for _ in range(2):  # one of each process: both have started
        next(stream)
    for child in multiprocessing.active_children():
        if child.pid not in before:
            os.kill(child.pid, signal.SIGINT)
    for _ in range(10):
        assert len(next(stream)[0]) == 2
    stream.close()  # as when a stage is over: no process is left behind
    assert {child.pid for child in multiprocessing.active_children()} == before


def test_a_stuck_worker_is_ended_by_sigterm_whatever_the_run_does_at_it(folder):
    before = {child.pid for child in multiprocessing.active_children()}
    with files.on_signals(lambda number, frame: None):
        stream = batches(faces_of(folder, memory=0, workers=1), 2, seed=0)
        next(stream)
        (worker,) = [c for c in multiprocessing.active_children() if c.pid not in before]
        with contextlib.suppress(RuntimeError):  # torch's, as soon as it sees that one is gone
            worker.terminate()
            worker.join(20)
            stream.close()
    assert worker.exitcode == -signal.SIGTERM


def in_a_fork(folder, results):
    stream = batches(faces_of(folder, memory=0, workers=2), 5, seed=1)
    results.put([picture.sum().item() for picture, _, _ in itertools.islice(stream, 4)])


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_training_process_gets_the_same_batches(folder):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    child = context.Process(target=in_a_fork, args=(folder, results))
    child.start()
    wanted = itertools.islice(batches(faces_of(folder), 5, seed=1), 4)
    assert results.get(timeout=60) == [picture.sum().item() for picture, _, _ in wanted]
    child.join(20)
    assert child.exitcode == 0


@each
def test_lazy_sets_can_be_sent_to_a_process(folder, reader):
    """Where processes are not forked (macOS, Windows), the loader's get a copy."""
    data = reader(folder, memory=0)
    copy = pickle.loads(pickle.dumps(data))
    assert_equal(list(data.batch([3, 1])), list(copy.batch([3, 1])))


class Slow(torch.utils.data.Dataset):
    """A lazy set that notes when a batch is asked of it."""

    lazy = True
    pictures = types.SimpleNamespace(threads=1)

    def __init__(self, asked):
        self.asked = asked

    def __len__(self):
        return 8

    def __getitems__(self, items):
        with self.asked.get_lock():
            self.asked.value += 1
        return torch.tensor([[index] for index, _ in items]), None


def test_the_next_batch_is_made_while_this_one_is_learned_from():
    asked = multiprocessing.get_context("fork").Value("i", 0)
    stream = batches(Slow(asked), 2, seed=0)
    assert asked.value == 0  # nothing before the first step
    next(stream)
    give_up = threading.Event()
    for _ in range(100):
        if asked.value >= 2:
            break
        give_up.wait(0.05)
    assert asked.value >= 2


@pytest.mark.gpu
@each
def test_a_gpu_gets_the_same_batches(folder, reader):
    sampler = BatchSampler(12, 5, seed=1)
    for data in (reader(folder), reader(folder, memory=0)):
        stream = batches(data, 5, seed=1, device="cuda")
        for step in range(7):
            assert_equal(list(data.batch(*sampler.batch(step), "cuda")), list(next(stream)))


def test_a_whole_run_from_files_is_the_run_from_memory(photos, tiny_args, tmp_path, capsys):
    limits = "train_identities", "pictures_each", "train_frames", "test_frames"
    words = [
        *tiny_args,
        *(word for name in limits for word in (f"--{name}", "0")),
        "--drawn",
        "false",
        "--rows",
        "Ours",
        "--faces",
        photos / "faces",
        "--actions",
        photos / "actions",
    ]
    for name, memory in (("held", "8"), ("lazy", "0")):
        assert run(*words, "--memory_gb", memory, "--out", tmp_path / name) == 0
        said = capsys.readouterr().err
        assert said.count("of pictures stay in their files (memory_gb is 0)") == (
            4 if name == "lazy" else 0
        )
    held, lazy = (read(tmp_path / name / "results.json") for name in ("held", "lazy"))
    for key in ("rows", "counts", "controls"):
        assert held[key] == lazy[key]
    for path in (tmp_path / "held").rglob("checkpoint.pt"):
        place = tmp_path / "lazy" / path.relative_to(tmp_path / "held")
        assert_equal(*(torch.load(one, weights_only=True)["parts"] for one in (path, place)))


# ---------------------------------------------------------------- real photographs, if any


@pytest.fixture
def photographs():
    folder = Path(os.environ.get("PPAD_DATA", ""))
    if (
        not os.environ.get("PPAD_DATA")
        or not (folder / "photo_pack").is_dir()
        or not (folder / "lfw").is_dir()
    ):
        pytest.skip(
            "set PPAD_DATA to a folder that holds photo_pack/ and lfw/ to test with photographs"
        )
    return folder


def test_photo_pack_faces_and_pairs(photographs):
    faces = read_faces(
        photographs / "photo_pack/faces/test", photographs / "photo_pack/faces/landmarks.csv", 32
    )
    assert len(faces) == 1548 and faces.skipped == []
    eyes = faces.landmarks[:, 1] - faces.landmarks[:, 0]
    # upright, image-left first
    assert (eyes[:, 0] > 4).all() and (eyes[:, 1].abs() < eyes[:, 0]).all()
    pairs = read_pairs(photographs / "photo_pack/faces/pairs_test.txt", faces)
    assert len(pairs) == 1199 and pairs.dropped == [
        "Marilyn_Monroe/Marilyn_Monroe_0001 Marilyn_Monroe/Marilyn_Monroe_0002"
    ]
    assert torch.equal(pairs.same, faces.identities[pairs.first] == faces.identities[pairs.second])


def test_lfw_is_cropped_as_photo_pack_was(photographs):
    lfw = read_faces(
        photographs / "lfw/lfw-deepfunneled", photographs / "lfw/landmarks.tsv", 160, people=120
    )
    pack = read_faces(
        photographs / "photo_pack/faces/test",
        photographs / "photo_pack/faces/landmarks.csv",
        160,
        people=30,
    )
    common = [name for name in pack.names if name in lfw.names]
    assert len(common) >= 5
    a, b = (torch.tensor([faces.names.index(name) for name in common]) for faces in (lfw, pack))
    assert (
        lfw.landmarks[a] - pack.landmarks[b]
    ).abs().max() < 0.02  # px; the tables are rounded to 0.1 and 0.01
    # of 255: webp's loss
    assert np.abs(lfw.pictures[a].numpy().astype(int) - pack.pictures[b].numpy()).mean() < 5


def test_lfw_picture_without_a_face_is_an_error_or_is_skipped(photographs, tmp_path):
    table = (photographs / "lfw/landmarks.tsv").read_text().splitlines()
    only = save(
        tmp_path / "one.tsv",
        table[:1] + [line for line in table if line.startswith("Marilyn_Monroe/")],
    )
    person = tmp_path / "pictures" / "Marilyn_Monroe"
    person.mkdir(parents=True)
    for picture in (photographs / "lfw/lfw-deepfunneled/Marilyn_Monroe").iterdir():
        (person / picture.name).write_bytes(picture.read_bytes())
    with pytest.raises(DataError, match="Marilyn_Monroe_0001.jpg: .*no landmarks"):
        read_faces(tmp_path / "pictures", only, 32)
    assert len(read_faces(tmp_path / "pictures", only, 32, on_bad="skip").skipped) == 1


def test_photo_pack_actions(photographs):
    folder = photographs / "photo_pack/actions"
    actions = read_actions(
        folder, folder / "annotations.csv", folder / "faces.csv", "train", (80, 80), limit=100
    )
    assert len(actions) == 100 and len(actions.classes) == 10
    assert torch.cat(actions.labels).bincount().tolist() == [0] + [10] * 10
    _, _, faces = actions.batch(torch.arange(100))
    assert sum(len(f) > 0 for f in faces) > 60


def test_kept_outputs_are_the_last_ones_and_stay_together():
    kept = datasets.KeptOutputs(4, 2)
    levels = torch.arange(6) * 40 / 127.5 - 1  # gray levels 0, 40, ...
    pictures = levels[:, None, None, None].expand(6, 3, 2, 2)
    marks = torch.arange(6.0)[:, None, None].expand(6, 5, 2)
    for batch in torch.arange(6).split(2):
        kept.add(pictures[batch], -pictures[batch], marks[batch], batch)
    before, after, landmarks, people = kept.draw(200)
    assert people.unique().tolist() == [2, 3, 4, 5]  # 0 and 1 had to go
    torch.testing.assert_close(before, pictures[people])
    torch.testing.assert_close(after, -pictures[people], atol=1 / 127, rtol=0)
    torch.testing.assert_close(landmarks, marks[people])
