"""What may happen to a long run: `kill -9` twenty times, a disk that fills up, spoilt files.

The runs are the main job at its smallest, in forked processes: Python need not start each time.
"""

import io
import os
import random
import shutil
import time
import zipfile
from pathlib import Path

import pytest
import torch
from test_loop import Run, lines, same
from test_reproduce import forked, read, run, truncate

from ppad import evaluate, reproduce
from ppad.files import WriteError
from ppad.loop import read_checkpoint

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
KILLS = 20
OF_THE_MACHINE = ("minutes", "minutes_by_row", "core_minutes", "hardware")


def ended(process):
    """Exit status of a fork, negative for the signal that ended it."""
    process.join()
    return process.exitcode


def result(out):
    """What a run leaves that the machine's speed does not decide."""
    return {
        key: value for key, value in read(out / "results.json").items() if key not in OF_THE_MACHINE
    }


def equal(a, b):
    """Whether two checkpoints' parts are the same to the bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(equal, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def assert_same_run(one, other):
    assert result(one) == result(other)
    for place in ("start/recognizer", "start/detector", "Ours", "Ours/retrained"):
        a, b = (out / "seed0" / place for out in (one, other))
        assert equal(
            read_checkpoint(a / "checkpoint.pt")["parts"],
            read_checkpoint(b / "checkpoint.pt")["parts"],
        ), place
        assert (a / "log.jsonl").read_text() == (b / "log.jsonl").read_text(), place
    assert not list(other.rglob(".*.part"))


@pytest.fixture(scope="module", autouse=True)
def without_figures():
    """Figures are drawn anew by every call; here they would take half of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reproduce, "draw", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def words(tiny_args):
    """A run of one row that saves after every step."""
    return [*tiny_args, "--rows", "Ours", "--checkpoint_seconds", "0"]


@pytest.fixture(scope="module")
def unbroken(words, tmp_path_factory):
    """A run that nothing happened to, and the seconds it took. Read only."""
    out = tmp_path_factory.mktemp("survival") / "unbroken"
    began = time.monotonic()
    assert ended(forked(lambda: run(*words, "--out", out))) == 0
    return out, time.monotonic() - began


# ------------------------------------------------------------------ kill -9


def test_killed_twenty_times_at_random_moments(unbroken, words, tmp_path):
    """A run that ends between two kills is compared and begun anew: each kill hits a run."""
    wanted, seconds = unbroken
    chance = random.Random(7)
    out = tmp_path / "killed"
    kills = 0
    states = set()
    while kills < KILLS:
        process = forked(lambda: run(*words, "--out", out))
        time.sleep(chance.uniform(0, 0.6 * seconds))
        if process.is_alive():
            process.kill()
            kills += ended(process) == -9
            states.add(tuple(sorted(path.relative_to(out).as_posix() for path in out.rglob("*.*"))))
        if (out / "results.json").exists():  # the last file written
            assert_same_run(wanted, out)
            shutil.rmtree(out)
    assert kills == KILLS and len(states) > 3  # at different stages of the work
    assert ended(forked(lambda: run(*words, "--out", out))) == 0
    assert_same_run(wanted, out)


# ------------------------------------------------------------------ a disk that is full for real


def test_disk_full_during_a_save(tmp_path):
    """The system refuses in the middle of torch's writing: the checkpoint before stands."""
    resource = pytest.importorskip("resource")

    def short_of_room(run):
        room = (tmp_path / "a/checkpoint.pt").stat().st_size // 2
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))

    def work():
        first = Run(tmp_path / "a", seconds=0, width=4000)
        first.before = {5: lambda: short_of_room(first)}
        try:
            first.go()
        except WriteError as error:
            print(error)
            return 7

    assert ended(forked(work, tmp_path / "said")) == 7
    said = (tmp_path / "said").read_text()
    assert f"cannot write {tmp_path / 'a/checkpoint.pt'} (" in said
    assert "free some disk space and run the same command again" in said
    assert read_checkpoint(tmp_path / "a/checkpoint.pt")["done"] == {"train": 4} and not list(
        tmp_path.rglob(".*.part")
    )
    resumed = Run(tmp_path / "a", width=4000).go()
    whole = Run(tmp_path / "b", width=4000).go()
    assert (
        resumed.seen[0] == 5
        and same(resumed.state(), whole.state())
        and lines(tmp_path / "a") == lines(tmp_path / "b")
    )


# ------------------------------------------------------------------ spoilt and foreign checkpoints


def flipped(data):
    """One bit of the largest tensor is another: torch alone reads this without a word."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        largest = archive.read(max(archive.infolist(), key=lambda info: info.file_size))
    place = data.index(largest) + len(largest) // 2
    return data[:place] + bytes([data[place] ^ 0x40]) + data[place + 1 :]


@pytest.mark.parametrize(
    "spoil",
    [flipped, lambda data: data[: len(data) // 2], lambda data: bytes(len(data))],
    ids=["one bit", "half of it", "zeros"],
)
def test_spoilt_checkpoint_is_named_and_the_previous_one_goes_on(
    unbroken, words, tmp_path, capsys, spoil
):
    wanted = unbroken[0]
    out = tmp_path / "run"
    shutil.copytree(wanted, out)
    for late in ("results.json", "seed0/Ours/row.json"):
        (out / late).unlink()
    path = out / "seed0/Ours/checkpoint.pt"
    path.write_bytes(spoil(path.read_bytes()))
    before = path.read_bytes()
    assert run(*words, "--out", out) == 2
    said = capsys.readouterr().err
    assert (
        f"{path} cannot be read (" in said and "delete it to go on from checkpoint.prev.pt" in said
    )
    assert path.read_bytes() == before  # theirs to delete
    path.unlink()
    assert run(*words, "--out", out) == 0
    assert_same_run(wanted, out)


def test_checkpoint_of_another_preset_is_refused_with_the_fields(unbroken, words, tmp_path, capsys):
    """By the run's config.json, and by a checkpoint that was moved into another folder."""
    wanted = unbroken[0]
    out = tmp_path / "run"
    shutil.copytree(wanted, out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert run("--preset", "photo", "--out", out) == 2
    said = capsys.readouterr().err
    assert (
        "preset: 'toy' there, 'photo' here" in said
        and "face_size: 32 there, 128 here" in said
        and "choose another --out" in said
    )
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    for late in ("config.json", "results.json", "seed0/Ours/row.json", "seed0/start.json"):
        (out / late).unlink()
    assert run(*words, "--T1", "4", "--l1_weight", "2", "--out", out) == 2
    said = capsys.readouterr().err
    assert (
        "checkpoint.pt belongs to another configuration (T1: 3 there, 4 here; "
        "l1_weight: 5.0 there, 2.0 here)" in said
    )


# ------------------------------------------------------------------ spoilt pictures


def test_spoilt_training_pictures_are_named_skipped_counted_and_replaced_by_nothing(
    photos,
    photo_config,
    capsys,
):
    spoilt = ["faces/train/P1/P1_0002.png", "faces/train/P3/P3_0003.png", "actions/0.png"]
    for name in spoilt:
        truncate(photos / name)
    data = evaluate.load_data(photo_config, 0)
    said = capsys.readouterr().err
    assert [line.split(":")[0] for line in said.splitlines()] == ["skipped"] * 3
    assert all(
        sum(str(photos / name) in line for line in said.splitlines()) == 1 for name in spoilt
    )
    assert len(data.faces.skipped) + len(data.actions.skipped) == 3
    assert (
        len(data.faces) == len(set(data.faces.names)) == 10
        and len(data.actions) == len(set(data.actions.names)) == 5
    )
    left = {Path(name).stem for name in data.faces.names} | set(data.actions.names)
    assert not left & {"P1_0002", "P3_0003", "0.png"}
    # no picture twice in the place of another
    assert len(torch.unique(data.faces.pictures.flatten(1), dim=0)) == 10
