"""A run and its data: the same data elsewhere go on, others are refused; one run in a folder; what
is wrong with a test set is said before any training, also by `--check`.
"""

import os
import shutil
import subprocess
import sys
import types

import pytest
from PIL import Image
from test_reproduce import edit, run

import ppad
from ppad import config, evaluate, optim, reproduce
from ppad.files import DataError, lock
from ppad.loop import LoopError

LIMITS = ("train_identities", "pictures_each", "train_frames", "test_frames")


@pytest.fixture
def words(photos, tiny_args, tmp_path):
    """Arguments of a tiny run on `photos`."""
    places = ["--faces", photos / "faces", "--actions", photos / "actions"]
    zeros = [word for name in LIMITS for word in (f"--{name}", "0")]
    return [*tiny_args, *zeros, "--drawn", "false", *places, "--out", tmp_path / "run"]


def begun(photo_config, folder):
    """What SeedRun does before any training."""
    return reproduce.SeedRun(photo_config, folder, 0, "cpu")


def moved(photo_config, photos, place):
    shutil.copytree(photos, place)
    return config.build(
        "toy",
        **{**vars(photo_config), "faces": str(place / "faces"), "actions": str(place / "actions")},
    )


def test_half_written_files_of_a_killed_run_are_cleared_away(photo_config, tmp_path):
    (tmp_path / "seed0/Ours").mkdir(parents=True)
    (tmp_path / "seed0/Ours/.checkpoint.pt.123.part").write_bytes(b"half")
    reproduce.open_folder(tmp_path, "toy", photo_config)
    assert not list(tmp_path.rglob("*.part"))


# ------------------------------------------------------------------ fingerprints


def test_the_same_data_in_another_folder_go_on(photo_config, photos, tmp_path):
    begun(photo_config, tmp_path / "seed0")
    there = moved(photo_config, photos, tmp_path / "elsewhere")
    one = begun(there, tmp_path / "seed0")
    assert "faces" not in one.settings and "actions" not in one.settings
    (tmp_path / "run").mkdir()
    reproduce.open_folder(tmp_path / "run", "toy", photo_config)
    reproduce.open_folder(tmp_path / "run", "toy", there)


@pytest.mark.parametrize(
    "name, which",
    [
        ("faces/train/P1/P1_0002.png", "train_faces"),
        ("faces/test/P5/P5_0001.png", "test_faces"),
        ("actions/2.png", "train_frames"),
        ("actions/8.png", "test_frames"),
    ],
)
@pytest.mark.parametrize("memory_gb", [8, 0])
def test_other_pictures_of_the_same_number_are_refused(
    photo_config, photos, tmp_path, name, which, memory_gb
):
    photo_config.memory_gb = memory_gb
    begun(photo_config, tmp_path / "seed0")
    with Image.open(photos / name) as picture:
        picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(photos / name)
    with pytest.raises(LoopError, match=f"{which}_checksum was .* when this run began and is .*"):
        begun(photo_config, tmp_path / "seed0")


@pytest.mark.parametrize(
    "table, old, new, which",
    [
        ("faces/pairs_test.txt", "P4\t1\t2", "P4\t1\t3", "pairs"),
        ("actions/annotations.csv", "1.png,train,b", "1.png,train,a", "train_frames"),
        ("actions/annotations.csv", "9.png,test,b", "9.png,test,a", "test_frames"),
    ],
)
def test_other_tables_are_refused(photo_config, photos, tmp_path, table, old, new, which):
    begun(photo_config, tmp_path / "seed0")
    edit(photos / table, old, new)
    with pytest.raises(LoopError, match=f"{which}_checksum was .*restore .* choose another --out"):
        begun(photo_config, tmp_path / "seed0")


def test_renamed_actions_are_refused(photo_config, photos, tmp_path):
    """Their order is kept, so no other checksum changes."""
    begun(photo_config, tmp_path / "seed0")
    table = photos / "actions/annotations.csv"
    table.write_text(table.read_text().replace(",b,", ",c,"))
    says = r"classes was \['a', 'b'\] when this run began and is \['a', 'c'\] now: restore"
    with pytest.raises(LoopError, match=says):
        begun(photo_config, tmp_path / "seed0")


# ------------------------------------------------------------------ before any training


@pytest.mark.parametrize(
    "table, old, new, says",
    [
        (
            "faces/pairs_test.txt",
            "P4\t1\t2",
            "p4\t1\t2",
            "names p4/p4_0001, the folder has P4/P4_0001",
        ),
        ("faces/pairs_test.txt", "P7\t1\t2", "P7\t1\t9", ""),
        (
            "faces/pairs_test.txt",
            "P6\t1\t3\nP7\t1\t2",
            "P6\t8\t3\nP7\t1\t9",
            "fold 2 of 2 has 0 and 2 pairs",
        ),
        ("actions/annotations.csv", "9.png,test,b", "9.png,test,c", "no train frame shows .*'c'"),
        (
            "actions/annotations.csv",
            "9.png,test,b",
            "9.png,test,B",
            "has the actions 'B' and 'b'",
        ),
        ("faces/landmarks.csv", "left_eye_x", "left_eye", "lacks the column"),
    ],
)
def test_the_check_sees_what_the_run_refuses(photo_config, photos, capsys, table, old, new, says):
    edit(photos / table, old, new)
    for look in (evaluate.count_data, evaluate.read_data):
        if says:
            with pytest.raises(DataError, match=says):
                look(photo_config)
        else:
            look(photo_config)
            assert "1 of 8 pairs are dropped" in capsys.readouterr().err


def test_a_person_in_train_and_in_test_is_seen(photo_config, photos):
    shutil.copytree(photos / "faces/test/P5", photos / "faces/train/p5")
    for look in (evaluate.count_data, evaluate.read_data):
        with pytest.raises(DataError, match="in train and in test, such as train/p5 and test/P5"):
            look(photo_config)


# ------------------------------------------------------------------ one run in a folder, devices


def test_a_run_in_use_is_refused_and_left_as_it_is(words, tmp_path, capsys):
    with lock(tmp_path / "run"):
        assert run(*words, "--rows", "Masked") == 2
        assert {path.name for path in (tmp_path / "run").iterdir()} == {".lock", ".lock.txt"}
    assert f"run is in use by process {os.getpid()} on" in capsys.readouterr().err


@pytest.mark.parametrize("more", [[], ["--check"]])
@pytest.mark.parametrize("device", ["gpu", "tpu", "banana", "mps", "meta", "cuda:x", "cuda:01"])
def test_a_device_that_cannot_be_is_one_sentence(words, capsys, device, more):
    assert run(*words, "--device", device, *more) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith(f"ppad.reproduce: device is '{device}'") and "\n" not in said


def test_mps_is_taken_where_torch_has_it(tiny, monkeypatch):
    backend = optim.torch.backends.mps
    monkeypatch.setattr(backend, "is_available", lambda: True)
    monkeypatch.setattr(backend, "is_macos_or_newer", lambda *version: True, raising=False)
    monkeypatch.setattr(optim, "gpu_memory", lambda device: 0.0)
    args = types.SimpleNamespace(jobs=1, check=False)
    assert reproduce.choose_device_and_jobs(args, tiny(device="mps")) == ("mps", 1)
    with optim.autocast(tiny(precision="bf16"), "mps"):
        assert optim.torch.is_autocast_enabled("mps")
    assert not optim.make_scaler(tiny(precision="bf16"), "mps").is_enabled()


@pytest.mark.parametrize(
    "needs, says",
    [
        (["numpy", "torch==2.9.1"], "torchvision 0.24.0 is made for torch 2.9, and torch is 2.14"),
        (["torch (==2.9.0)"], "pip install --upgrade torch torchvision"),
        (["numpy", "torch==2.14.0"], ""),
        (["torch"], ""),
        (None, ""),
    ],
)
def test_a_torchvision_for_another_torch_is_named(monkeypatch, needs, says):
    known = {"torch": "2.14.1+cu130", "torchvision": "0.24.0"}
    monkeypatch.setattr(ppad.metadata, "version", known.__getitem__)
    monkeypatch.setattr(ppad.metadata, "requires", lambda package: needs)
    assert says in ppad.misfit() and bool(ppad.misfit()) == bool(says)


def test_a_misfit_ends_every_command_with_one_sentence(tmp_path):
    """Also --check, since it is found before anything is imported."""
    for name, version, more in (
        ("torch", "9.1.0", ""),
        ("torchvision", "0.1", "Requires-Dist: torch==8.8.8\n"),
    ):
        place = tmp_path / f"{name}-{version}.dist-info"
        place.mkdir()
        head = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        (place / "METADATA").write_text(head + more)
    root = os.path.dirname(os.path.dirname(ppad.__file__))
    command = [sys.executable, "-m", "ppad.reproduce", "--check"]
    done = subprocess.run(
        command,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    fault = "torchvision 0.1 is made for torch 8.8, and torch is 9.1.0"
    assert done.returncode == 2
    assert done.stderr.strip() == f"{fault}: run pip install --upgrade torch torchvision"
