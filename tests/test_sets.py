"""sets and datasets.Feed: pictures in memory or in their files, batches made ahead, on any device, always the same bits."""

import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image
from test_reproduce import photos, read, run, truncate  # noqa: F401  (photos is a fixture)

from ppad import readers
from ppad.datasets import Batches, DataError, Feed, read_actions, read_faces
from ppad.readers import BOX_COLUMNS, POINT_COLUMNS


@pytest.fixture
def folder(tmp_path):
    """Twelve noisy pictures of three people with boxes, some over the edge, and twelve frames of three sizes."""
    chance = np.random.default_rng(0)
    corners = ",".join(BOX_COLUMNS)
    faces, boxes = [f"file,{corners},{','.join(POINT_COLUMNS)}"], [f"file,{corners}"]
    people = [f"file,split,action,width,height,{corners}"]
    for i in range(12):
        width, height = ((60, 50), (40, 64), (48, 48))[i % 3]
        pixels = Image.fromarray(chance.integers(0, 256, (height, width, 3), dtype=np.uint8))
        name, x = f"P{i // 4}/P{i // 4}_{i % 4:04d}.png", -6 + 3 * i % 20
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


# ------------------------------------------------------------------ in memory or in files


@each
@pytest.mark.parametrize("workers", [1, 5])
def test_pictures_in_files_are_those_in_memory(folder, reader, workers):
    held, lazy = reader(folder), reader(folder, memory=0, workers=workers)
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
    assert (
        not reader(folder, memory=one, **how).lazy and reader(folder, memory=one - 1, **how).lazy
    )  # of what is asked for


@each
def test_a_picture_spoilt_later_is_named_and_replaced_by_nothing(folder, reader):
    lazy, place = (
        reader(folder, memory=0),
        folder / ("faces/P1/P1_0001.png" if reader is faces_of else "frames/5.png"),
    )
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


def test_limits_count_usable_pictures_however_far_the_threads_are(folder, monkeypatch):
    for name in ("P0/P0_0000.png", "P0/P0_0002.png", *(f"P1/P1_000{i}.png" for i in range(4))):
        truncate(folder / "faces" / name)
    for chunk in (1, 3, 128):
        monkeypatch.setattr(readers, "CHUNK", chunk)
        faces = faces_of(folder, people=2, pictures_each=1, on_bad="skip", workers=4)
        assert faces.names == [
            "P0/P0_0001",
            "P2/P2_0000",
        ]  # nobody counts whose pictures are all spoilt
        assert [line.split("/")[-1][:7] for line in faces.skipped] == [
            "P0_0000",
            "P1_0000",
            "P1_0001",
            "P1_0002",
            "P1_0003",
        ]
        assert len(faces.images) == 2 and faces.identities.tolist() == [0, 1]


def test_a_long_reading_says_how_far_it_is(folder, monkeypatch, capsys):
    faces_of(folder)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(readers, "SECONDS_BETWEEN_LINES", -1)
    monkeypatch.setattr(readers, "CHUNK", 6)
    faces_of(folder, memory=0)
    (line,) = capsys.readouterr().err.splitlines()  # and nothing once it is done
    assert f"{folder / 'faces'}: 6 of 12 pictures read, about 0 s left" == line


# ------------------------------------------------------------------ on a device


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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU and PPAD_TEST_GPU=1")
@each
def test_a_gpu_gets_the_same_batches(folder, reader):
    data = reader(folder)
    plain, feed = Batches(12, 5, seed=1), Feed(data, Batches(12, 5, seed=1), "cuda")
    for _ in range(7):
        assert_equal(list(data.batch(*plain.next(), "cuda")), list(feed.next()))


# ------------------------------------------------------------------ ahead of time


def test_peek_takes_nothing():
    batches = Batches(7, 3, seed=2)
    for _ in range(5):  # across the ends of epochs
        before = batches.state_dict()
        seen = batches.peek()
        assert_equal(before, batches.state_dict())
        assert_equal(list(seen), list(batches.next()))


@each
@pytest.mark.parametrize("memory", [0, 1e9])
def test_feed_gives_the_stream_and_its_state(folder, reader, memory):
    data, plain, batches = (
        reader(folder, memory=memory),
        Batches(12, 5, seed=1),
        Batches(12, 5, seed=1),
    )
    feed = Feed(data, batches)
    assert (feed.worker is None) == (memory > 0)  # what lies in memory needs no thread
    for step in range(9):
        assert_equal(list(data.batch(*plain.next())), list(feed.next()))
        assert_equal(plain.state_dict(), batches.state_dict())  # what is made ahead does not show
        if step == 3:
            saved = batches.state_dict()
        if step == 5:  # a run goes on from a checkpoint
            plain.load_state_dict(saved)
            batches.load_state_dict(saved)
        if step == 7:  # somebody else takes a batch
            plain.next()
            batches.next()


class Slow:
    """A lazy set that says when a batch is asked of it, and by which thread."""

    lazy = True

    def __init__(self):
        self.asked, self.threads = [], set()

    def batch(self, indices, mirror, device):
        self.asked.append(indices.tolist())
        self.threads.add(threading.current_thread())
        if len(self.asked) == 3:
            raise DataError("the third batch is spoilt")
        return indices


def test_the_next_batch_is_made_while_this_one_is_learnt_from():
    data, order = Slow(), Batches(8, 2, seed=0)
    feed, wanted = Feed(data, Batches(8, 2, seed=0)), [order.next()[0].tolist() for _ in range(4)]
    assert data.asked == []  # nothing before the first step
    assert feed.next().tolist() == wanted[0]
    give_up = time.monotonic() + 5
    while len(data.asked) < 2 and time.monotonic() < give_up:
        time.sleep(0.01)
    assert data.asked == wanted[:2] and threading.current_thread() not in data.threads
    assert feed.next().tolist() == wanted[1]
    with pytest.raises(DataError, match="third"):  # at its own turn, not before
        feed.next()


def test_a_whole_run_from_files_is_the_run_from_memory(photos, tiny_args, tmp_path, capsys):  # noqa: F811
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
