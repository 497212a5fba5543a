"""Face folders from LFW, CASIA, anything and the toy world: miniatures, read back by the readers
that training uses.
"""

import csv
import errno
import io
import json
import os
import shutil
import signal
import struct
import sys
import tarfile
import zlib
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "data_scripts"))

import _common
import _faces
import _journal
import _untrusted
import make_toyworld
import prepare_casia
import prepare_folder
import prepare_lfw

from ppad import config, crop_sampler, datasets, evaluate, files
from ppad.files import WriteError, lock, write_file
from ppad.folders import BOX_COLUMNS, POINT_COLUMNS

POINTS = torch.tensor([[20.0, 30], [40, 30], [30, 40], [22, 50], [38, 50]])


class Finder:
    """Stands for the face finder: one face in the middle, a larger one at the edge, a doubtful one;
    none in dark pictures.
    """

    def __init__(self, mtcnn=None, ssh=None, rule="mtcnn"):
        self.seen = []

    def find(self, frames):
        answers = []
        for frame in frames:
            self.seen.append(frame)
            boxes = torch.tensor([[15.0, 20, 45, 60], [-30, -30, 12, 12], [10, 10, 60, 79]])[
                : 0 if frame.float().mean() < 20 else 3
            ]
            answers.append(
                {
                    "boxes": boxes,
                    "scores": torch.tensor([0.99, 0.9, 0.75])[: len(boxes)],
                    "landmarks": POINTS.repeat(len(boxes), 1, 1),
                }
            )
        return answers


@pytest.fixture(autouse=True)
def finder(monkeypatch):
    """No weights are needed but where a test says so."""

    class Weights:
        @classmethod
        def load(cls):
            return cls()

        def to(self, device):
            return self

    monkeypatch.setattr(_faces, "FaceFinder", Finder)
    monkeypatch.setattr(_faces, "MTCNN", Weights)


def picture(value, size=(60, 80), form="JPEG"):
    content = io.BytesIO()
    noise = np.random.default_rng(value).integers(0, 40, (size[1], size[0], 3))
    Image.fromarray((noise + value).astype(np.uint8)).save(content, form)
    return content.getvalue()


def lfw_files():
    files = {
        f"{p}/{p}_{i:04d}.jpg": picture(60 + 20 * n + i)
        for n, p in enumerate("Ann_A Ben_B Cid_C Dee_D".split())
        for i in (1, 2)
    }
    files["Ann_A/Ann_A_0003.jpg"] = picture(0)  # dark: no face will be found
    files["Ben_B/Ben_B_0003.jpg"] = files["Ben_B/Ben_B_0001.jpg"][:300]
    return files


PAIRS = (
    "2\t2\nAnn_A\t1\t2\nBen_B\t1\t2\nAnn_A\t1\tBen_B\t1\nAnn_A\t2\tBen_B\t1\n"
    "Cid_C\t1\t2\nDee_D\t1\t2\nCid_C\t1\tDee_D\t1\nCid_C\t1\tBen_B\t3\n"
)


def lay(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def snapshot(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def lfw(tmp_path, kind="folder"):
    source = lay(tmp_path / "in" / "lfw", lfw_files())
    (tmp_path / "in" / "pairs.txt").write_text(PAIRS)
    if kind == "tgz":
        with tarfile.open(tmp_path / "in" / "lfw.tgz", "w:gz") as archive:
            archive.add(source, "lfw")
        shutil.rmtree(source)
        return tmp_path / "in" / "lfw.tgz"
    return source


@pytest.mark.parametrize("kind", ["folder", "tgz"])
def test_lfw_miniature(tmp_path, capsys, kind):
    source = lfw(tmp_path, kind)
    out = tmp_path / "out"
    before = snapshot(tmp_path / "in")
    assert prepare_lfw.run(prepare_lfw.main, [str(source), str(out)]) == 0
    said = capsys.readouterr()
    assert "pictures: 8 of 13,233, 13,225 missing" in said.out and "people: 4 of 5,749" in said.out
    assert "pairs: 7 of 6,000" in said.out and "Ben_B_0003" in said.out
    assert (
        "Ann_A_0003.jpg: no face found" in said.err and "Ben_B_0003.jpg: cannot be read" in said.err
    )
    assert snapshot(tmp_path / "in") == before and sorted(os.listdir(tmp_path)) == ["in", "out"]

    # "error": every picture there is usable
    faces = datasets.read_faces(out / "test", out / "landmarks.csv", 64)
    pairs = datasets.read_pairs(out / "pairs_test.txt", faces)
    same = [True, True, False, False, True, False]  # one pair goes, as fold 2 lacks its other kind
    assert len(faces) == 8 and len(pairs) == 6 and pairs.same.tolist() == same
    side = 1.6 * 40  # the central face of 30 x 40, not the larger one at the edge
    corner = torch.tensor([30 - side / 2, 40 - side / 2])
    assert torch.allclose(faces.landmarks[0], (POINTS - corner) * 64 / side, atol=0.02)
    for file, content in lfw_files().items():  # copied as they are
        if "_0003" not in file:
            assert (out / "test" / file).read_bytes() == content


def test_a_stopped_run_goes_on_and_ends_alike(tmp_path, monkeypatch, capsys):
    source = lfw(tmp_path)
    whole = tmp_path / "whole"
    out = tmp_path / "out"
    assert prepare_lfw.run(prepare_lfw.main, [str(source), str(whole)]) == 0
    monkeypatch.setattr(_common, "AT_ONCE", 2)
    # nothing is looked at ahead, so what was seen can be counted
    monkeypatch.setattr(_common, "cores", lambda: 1)
    found = []
    real = Finder.find

    def stops(self, frames):
        found.extend(frames)
        if len(found) == 4:
            raise KeyboardInterrupt
        return real(self, frames)

    monkeypatch.setattr(Finder, "find", stops)
    assert prepare_lfw.run(prepare_lfw.main, [str(source), str(out)]) == 130
    assert len(list(out.glob("test/*/*.jpg"))) == 2 and not (out / "landmarks.csv").exists()
    with open(out / ".test.jsonl", "ab") as journal:  # killed in the middle of a line
        journal.write(b'{"file": "test/Cid')
    assert prepare_lfw.run(prepare_lfw.main, [str(source), str(out)]) == 0
    ended = snapshot(out)
    unbroken = snapshot(whole)
    for one in (ended, unbroken):
        assert one.pop("prepared.json")  # holds the time it took
    assert {**ended, ".test.jsonl": 0} == {**unbroken, ".test.jsonl": 0}
    # its lines may come in another order
    assert set(ended[".test.jsonl"].split(b"\n")) == set(unbroken[".test.jsonl"].split(b"\n"))
    assert len(found) == 4 + 7  # the two done ones not again; Ann_A_0003 too is looked at
    capsys.readouterr()
    source.joinpath("Ben_B/Ben_B_0003.jpg").write_bytes(picture(90))
    # a mended picture is taken in
    assert prepare_lfw.run(prepare_lfw.main, [str(source), str(out)]) == 0
    assert "pictures: 9 of" in capsys.readouterr().out


def one_sentence(capsys, script, *args):
    assert script.run(script.main, [str(arg) for arg in args]) == 2
    said = capsys.readouterr().err.strip()
    assert "\n" not in said and said
    return said


def test_pairs_beside_the_folder_one_is_in_are_found(tmp_path, monkeypatch):
    monkeypatch.chdir(lfw(tmp_path))
    assert prepare_lfw.run(prepare_lfw.main, [".", str(tmp_path / "out")]) == 0


def test_user_mistakes_end_in_one_sentence(tmp_path, capsys, monkeypatch):
    source = lfw(tmp_path)
    out = tmp_path / "out"
    assert "no such file or folder" in one_sentence(capsys, prepare_lfw, tmp_path / "none", out)
    assert "contains the other" in one_sentence(capsys, prepare_lfw, source, source / "out")
    assert "contains the other" in one_sentence(capsys, prepare_lfw, source, tmp_path)
    assert "is a file" in one_sentence(capsys, prepare_lfw, source, tmp_path / "in" / "pairs.txt")
    assert "no pairs.txt" in one_sentence(
        capsys, prepare_lfw, source, out, "--pairs", tmp_path / "p.txt"
    )
    assert "no such table" in one_sentence(
        capsys, prepare_lfw, source, out, "--landmarks", tmp_path / "l.csv"
    )
    (tmp_path / "empty").mkdir()
    assert "no usable" in one_sentence(
        capsys, prepare_casia, tmp_path / "empty", tmp_path / "other"
    )
    assert not out.exists()
    from ppad.mtcnn import MTCNN

    monkeypatch.setattr(_faces, "MTCNN", MTCNN)
    monkeypatch.setenv("PPAD_WEIGHTS", str(tmp_path / "nothing"))
    said = one_sentence(capsys, prepare_lfw, source, out)
    assert "get_weights.py" in said and "--landmarks" in said


@pytest.mark.parametrize(
    "names",
    [
        ("2019/Ann/1.jpg", "2020/Ann/1.jpg"),
        ("lfw/Ann/1.jpg", "lfw-deepfunneled/Ann/1.jpg"),
        ("Ann/1.jpg", "Ann/1.png"),
        ("Ann/1.jpg", "Ann/1.JPG"),
        ("Zo\u00eb/1.jpg", "Zoe\u0308/1.jpg"),
    ],
)
@pytest.mark.parametrize("script", [prepare_lfw, prepare_casia, prepare_folder])
def test_two_pictures_that_would_overwrite_each_other_are_refused(tmp_path, capsys, script, names):
    people = {f"P{i}/{j}.jpg": picture(90 + i + j) for i in range(6) for j in range(2)}
    source = lay(tmp_path / "in", people | {name: picture(70) for name in names})
    (tmp_path / "pairs.txt").write_text(PAIRS)
    said = one_sentence(capsys, script, source, tmp_path / "out")
    if script is prepare_folder and names[0].count("/") == 2:
        assert "must lie side by side" in said
    else:
        assert all(name in said for name in names) and "rename one" in said
    assert not list((tmp_path / "out").rglob("*.jpg"))


@pytest.mark.parametrize("name", ["._a.jpg", "a/._1.jpg", "a/.DS_Store", "a/Thumbs.db", ".x/1.jpg"])
def test_files_that_systems_add_are_not_pictures(tmp_path, capsys, name):
    source = lay(lfw(tmp_path), {name: b"x"})
    assert prepare_lfw.run(prepare_lfw.main, [str(source), str(tmp_path / "out")]) == 0
    assert "pictures: 8 of" in capsys.readouterr().out


def test_pairs_in_another_encoding_are_named(tmp_path, capsys):
    source = lfw(tmp_path)
    text = PAIRS.replace("Ann_A", "\u00c4nn_A")
    (tmp_path / "in/pairs.txt").write_bytes(text.encode("latin1"))
    said = one_sentence(capsys, prepare_lfw, source, tmp_path / "out")
    assert "pairs.txt: cannot be read" in said and "save it in UTF-8" in said


def test_a_table_of_another_convention_is_refused(tmp_path, capsys):
    table = tmp_path / "t.csv"
    points = [40, 30, 20, 30, 30, 40, 38, 50, 22, 50]
    rows = [[file, *points] for file in lfw_files()]
    table.write_text(_journal.table_text(["file", *POINT_COLUMNS], rows))
    said = one_sentence(capsys, prepare_lfw, lfw(tmp_path), tmp_path / "out", "--landmarks", table)
    assert "left_eye lies right of right_eye" in said


def test_two_scripts_in_one_out_wait_for_each_other(tmp_path, capsys):
    with lock(tmp_path / "out"):
        said = one_sentence(capsys, prepare_lfw, lfw(tmp_path), tmp_path / "out")
    assert f"out is in use by process {os.getpid()}" in said


def test_a_hostile_archive_writes_nothing(tmp_path, capsys):
    (tmp_path / "pairs.txt").write_text(PAIRS)
    with tarfile.open(tmp_path / "lfw.tgz", "w:gz") as archive:
        for name in ("lfw/Ann_A/Ann_A_0001.jpg", "lfw/../../Ann_A/../../evil.jpg"):
            info = tarfile.TarInfo(name)
            info.size = len(picture(90))
            archive.addfile(info, io.BytesIO(picture(90)))
    assert "evil.jpg' leads out" in one_sentence(
        capsys, prepare_lfw, tmp_path / "lfw.tgz", tmp_path / "out"
    )
    assert sorted(os.listdir(tmp_path)) == ["lfw.tgz", "pairs.txt"]


def test_a_given_table_takes_the_finders_place(tmp_path, capsys, monkeypatch):
    source = lfw(tmp_path)
    out = tmp_path / "out"
    monkeypatch.setattr(_faces, "FaceFinder", None)
    rows = [
        [file, 10, 20, 50, 60, *POINTS.flatten().tolist()]
        for file in lfw_files()
        if "Dee" not in file
    ]
    (tmp_path / "t.tsv").write_text(
        "\n".join(
            "\t".join(map(str, row)) for row in [["file", *BOX_COLUMNS, *POINT_COLUMNS], *rows]
        )
    )
    assert (
        prepare_lfw.run(
            prepare_lfw.main, [str(source), str(out), "--landmarks", str(tmp_path / "t.tsv")]
        )
        == 0
    )
    assert "Dee_D_0001.jpg: no face found" in capsys.readouterr().err
    faces = datasets.read_faces(out / "test", out / "landmarks.csv", 64)
    assert len(faces) == 7 and torch.allclose(
        faces.landmarks[0], (POINTS - torch.tensor([-2.0, 8])) * 1.0, atol=0.02
    )
    assert "give another OUT" in one_sentence(
        capsys,
        prepare_lfw,
        source,
        out,
        "--landmarks",
        csv_of_points(tmp_path / "u.csv", lfw_files()),
    )


def csv_of_points(path, files):
    path.write_text(
        _journal.table_text(
            ["file", *POINT_COLUMNS], [[file, *POINTS.flatten().tolist()] for file in files]
        )
    )
    return path


def test_square_crops_need_no_box(tmp_path):
    """The box written for a crop is the one whose 1.6-fold square is the whole picture: it is read
    back as it was.
    """
    files = {
        f"p{i}/{j}.png": picture(60 + 10 * i + j, (80, 80), "PNG") for i in range(6) for j in (1, 2)
    }
    source = lay(tmp_path / "in", files)
    out = tmp_path / "out"
    assert (
        prepare_folder.run(
            prepare_folder.main,
            [str(source), str(out), "--landmarks", str(csv_of_points(tmp_path / "t.csv", files))],
        )
        == 0
    )
    faces = datasets.read_faces(out / "train", out / "landmarks.csv", 80)
    original = np.asarray(Image.open(source / (faces.names[0] + ".png")))
    assert np.array_equal(faces.pictures[0].permute(1, 2, 0).numpy(), original) and torch.allclose(
        faces.landmarks[0], POINTS, atol=0.01
    )


def test_casia_drops_the_three_and_shares_an_out_with_lfw(tmp_path, capsys):
    files = {
        f"CASIA-WebFace/{p}/{i:03d}.jpg": picture(70 + i)
        for p in ("0000045", "0000099", "0166921", "1056413", "1193098")
        for i in (1, 2)
    }
    files["CASIA-WebFace/0000045/Thumbs.db"] = b"x"
    out = tmp_path / "out"
    assert prepare_lfw.run(prepare_lfw.main, [str(lfw(tmp_path)), str(out)]) == 0
    assert (
        prepare_casia.run(prepare_casia.main, [str(lay(tmp_path / "casia", files)), str(out)]) == 0
    )
    said = capsys.readouterr().out
    assert (
        "included: 10 of 494,414" in said and "people without the three in LFW: 2 of 10,572" in said
    )
    assert "dropped, also in LFW: 1056413, 2 pictures" in said
    train, test = (
        datasets.read_faces(out / split, out / "landmarks.csv", 32) for split in ("train", "test")
    )
    # the other script's half does not stand in for this one's
    assert "no usable" in one_sentence(
        capsys,
        prepare_casia,
        lay(tmp_path / "empty", {"a/b.txt": b""}),
        lay(tmp_path / "half", {".test.jsonl": (out / ".test.jsonl").read_bytes()}),
    )
    assert (len(train), len(test)) == (4, 8)
    assert {name.split("/")[0] for name in train.names} == {"0000045", "0000099"}


@pytest.mark.parametrize("top", ["", "CASIA-WebFace/"])
def test_casia_a_picture_beside_the_people_is_nobodys(tmp_path, capsys, top):
    files = {f"{top}000{n}/1.jpg": picture(70 + n) for n in (1, 2)} | {f"{top}x.jpg": picture(80)}
    out = tmp_path / "out"
    source = lay(tmp_path / "in", files)
    assert prepare_casia.run(prepare_casia.main, [str(source), str(out)]) == 0
    assert sorted(path.name for path in (out / "train").iterdir()) == ["0001", "0002"]
    said = f"left out: {top}x.jpg: it lies in no folder of a person"
    assert said in capsys.readouterr().err


def test_folder_of_faces_is_ready_for_the_main_job(tmp_path, capsys):
    files = {
        f"Some One {n}/pic {i}.jpg": picture(50 + 6 * n + i) for n in range(20) for i in range(3)
    }
    source = lay(tmp_path / "in", files)
    out = tmp_path / "out"
    assert prepare_folder.run(prepare_folder.main, [str(source), str(out)]) == 0
    assert "test pictures: 12 of 12, of 4 people" in capsys.readouterr().out
    train, test = (
        datasets.read_faces(out / split, out / "landmarks.csv", 32) for split in ("train", "test")
    )
    pairs = datasets.read_pairs(out / "pairs_test.txt", test)
    assert len(train) == 48 and len(test) == 12 and not pairs.dropped
    people = [
        {
            test.names[i].split("/")[0]
            for k in (pairs.first, pairs.second)
            for i in k[pairs.folds == fold]
        }
        for fold in (0, 1)
    ]
    assert pairs.folds.max() == 1 and not people[0] & people[1]  # two folds, nobody in both
    assert {name.replace("_", " ") for name in people[0] | people[1]}.isdisjoint(
        name.split("/")[0] for name in train.names
    )
    lay(source, {"Some One 3/a new one.jpg": picture(80)})
    # numbers would shift
    assert "give another OUT" in one_sentence(capsys, prepare_folder, source, out)


def test_folder_keeps_its_own_halves_and_refuses_a_person_in_both(tmp_path, capsys):
    files = {
        f"{split}/{split}{n}/{i}.jpg": picture(60 + n + i)
        for split in ("train", "test")
        for n in range(5)
        for i in range(2)
    }
    source = lay(tmp_path / "in", files)
    assert prepare_folder.run(prepare_folder.main, [str(source), str(tmp_path / "out")]) == 0
    assert (
        len(list((tmp_path / "out/train").glob("train*/*")))
        == 10
        == len(list((tmp_path / "out/test").glob("test*/*")))
    )
    lay(source, {"train/test1/x.jpg": picture(60)})
    assert "'test1' is in train and in test" in one_sentence(
        capsys, prepare_folder, source, tmp_path / "out2"
    )


def test_drawn_pairs_obey_lfws_format_at_its_full_size():
    files = [f"p{n:03d}/p{n:03d}_{i:04d}.jpg" for n in range(150) for i in range(1, 9)]
    text = prepare_folder.draw_pairs(files)
    assert (
        text.splitlines()[0] == "10\t300"
        and len(text.splitlines()) == 6001
        and text == prepare_folder.draw_pairs(files[::-1])
    )


def test_one_person_of_very_many_pictures_does_not_fill_a_fold():
    files = [f"p{n}/p{n}_{i:04d}.jpg" for n in range(4) for i in range(1, 700 if n == 0 else 4)]
    lines = [line.split("\t") for line in prepare_folder.draw_pairs(files).splitlines()]
    assert lines[0] == ["2", "6"]  # the other fold: two people with three pairs each
    assert [len(words) for words in lines[1:]] == 2 * (6 * [3] + 6 * [4])


def test_toy_world_on_disk_equals_the_one_in_memory(tmp_path, tiny, tiny_args, capsys):
    """Also through the main job's own loader."""
    words = tiny_args[2:]  # without --jobs 1
    assert make_toyworld.run(make_toyworld.main, [str(tmp_path / "toy"), *words]) == 0
    memory = evaluate.load_data(tiny(), 0)
    photo = config.build(
        "photo",
        faces=str(tmp_path / "toy/faces"),
        actions=str(tmp_path / "toy/actions"),
        face_size=32,
        frame_height=96,
        frame_width=96,
    )
    disk = evaluate.load_data(photo, 0)
    for a, b in ((memory.faces, disk.faces), (memory.test_faces, disk.test_faces)):
        assert (
            a.names == b.names
            and torch.equal(a.pictures, b.pictures)
            and torch.equal(a.landmarks, b.landmarks)
        )
        assert torch.equal(a.identities, b.identities)
    for a, b in ((memory.actions, disk.actions), (memory.test_actions, disk.test_actions)):
        assert (
            torch.equal(a.pictures, b.pictures) and [f"{name}.png" for name in a.names] == b.names
        )
        assert all(map(torch.equal, a.boxes, b.boxes)) and all(
            map(torch.equal, a.face_boxes, b.face_boxes)
        )
        for one, other in zip(a.labels, b.labels):
            assert a.classes[one[0] - 1] == b.classes[other[0] - 1]

    def as_set(pairs):
        return {
            tuple(x)
            for x in torch.stack(
                [pairs.first, pairs.second, pairs.same.long(), pairs.folds], 1
            ).tolist()
        }

    assert as_set(memory.pairs) == as_set(disk.pairs)
    assert "give another OUT" in one_sentence(
        capsys, make_toyworld, tmp_path / "toy", *words, "--seed", 1
    )
    assert "face_size" in one_sentence(
        capsys, make_toyworld, tmp_path / "toy2", "--face_size", "30"
    )


def test_some_of_the_real_lfw(tmp_path, monkeypatch, capsys):
    """24 people against the table that came with the set. For the whole set run, with PPAD_WEIGHTS
    set,

        python data_scripts/prepare_lfw.py $PPAD_DATA/lfw OUT

    and expect 13,232 of 13,233 pictures: the table has no face for Marilyn_Monroe_0001 either.
    """
    data = Path(os.environ.get("PPAD_DATA", "nowhere"))
    if not (data / "lfw" / "landmarks.tsv").exists() or not (data / "weights" / "onet.pt").exists():
        pytest.skip("PPAD_DATA does not name a folder with lfw/ and weights/")
    from ppad import mtcnn, ssh

    monkeypatch.setattr(_faces, "FaceFinder", ssh.FaceFinder)
    monkeypatch.setattr(_faces, "MTCNN", mtcnn.MTCNN)
    monkeypatch.setenv("PPAD_WEIGHTS", str(data / "weights"))
    for person in sorted((data / "lfw" / "lfw-deepfunneled").iterdir())[100:124]:
        shutil.copytree(person, tmp_path / "in" / person.name)
    out = tmp_path / "out"
    assert (
        prepare_lfw.run(
            prepare_lfw.main,
            [str(tmp_path / "in"), str(out), "--pairs", str(data / "lfw" / "pairs.txt")],
        )
        == 0
    )
    with open(data / "lfw" / "landmarks.tsv", newline="") as file:
        reference = {row["file"]: row for row in csv.DictReader(file, delimiter="\t")}
    with open(out / "landmarks.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(list((tmp_path / "in").glob("*/*"))) >= 24
    for row in rows:
        known = reference[row["file"].removeprefix("test/")]
        assert all(
            abs(float(row[column]) - float(known[column])) < 3
            for column in (*BOX_COLUMNS, *POINT_COLUMNS)
        ), row["file"]


def test_any_number_of_threads_writes_the_same_files_in_the_same_order(tmp_path, monkeypatch):
    source = lfw(tmp_path)
    outs = []
    monkeypatch.setattr(_common, "AT_ONCE", 1)
    for threads in (1, 4):
        monkeypatch.setattr(_common, "cores", lambda threads=threads: threads)
        assert prepare_lfw.run(prepare_lfw.main, [str(source), str(tmp_path / f"{threads}")]) == 0
        outs.append(snapshot(tmp_path / f"{threads}"))
        assert outs[-1].pop("prepared.json")  # holds the time it took
    assert outs[0] == outs[1] and len(outs[0][".test.jsonl"].splitlines()) == 1 + 10


# ---------------------------------------------------------------- stops, mix-ups and broken input


def test_an_out_of_another_source_is_refused_and_left_as_it_is(tmp_path, capsys):
    first = lfw(tmp_path)
    out = tmp_path / "out"
    assert prepare_lfw.run(prepare_lfw.main, [str(first), str(out)]) == 0
    done = snapshot(out)
    pairs = ["--pairs", str(tmp_path / "in/pairs.txt")]
    _ = capsys.readouterr()
    other = lay(tmp_path / "other", {f"Eve_E/Eve_E_{i:04d}.jpg": picture(70 + i) for i in (1, 2)})
    said = one_sentence(capsys, prepare_lfw, other, out, *pairs)
    assert "holds 8 pictures that SOURCE lacks" in said and "give another OUT" in said
    assert "such as test/Ann_A/Ann_A_0001.jpg" in said
    changed = lay(
        tmp_path / "changed", {**lfw_files(), "Cid_C/Cid_C_0001.jpg": picture(200, (70, 80))}
    )
    # the same names, one with other content
    said = one_sentence(capsys, prepare_lfw, changed, out, *pairs)
    assert "holds 1 picture that" in said and "test/Cid_C/Cid_C_0001.jpg" in said
    assert snapshot(out) == done
    (first / "Ben_B/Ben_B_0003.jpg").unlink()  # what was left out may go, and new pictures may come
    lay(first, {"Eve_E/Eve_E_0001.jpg": picture(70)})
    assert prepare_lfw.run(prepare_lfw.main, [str(first), str(out)]) == 0
    said = capsys.readouterr()
    assert "pictures: 9 of" in said.out and "left out (named above): 1\n" in said.out
    assert "Ben_B_0003" not in said.err + (out / "left_out_test.txt").read_text()


@pytest.mark.parametrize("kind", ["zip", "tar", "folder"])
def test_a_source_packed_otherwise_is_the_same_source(tmp_path, kind):
    source = lfw(tmp_path)
    out = tmp_path / "out"
    assert prepare_lfw.run(prepare_lfw.main, [str(source), str(out)]) == 0
    if kind != "folder":
        source = shutil.make_archive(str(tmp_path / "in" / "packed"), kind, source)
    assert prepare_lfw.run(prepare_lfw.main, [str(source), str(out)]) == 0


def test_a_full_disk_is_told_in_one_sentence_and_gone_on_from(tmp_path, capsys, monkeypatch):
    source = lfw(tmp_path)
    out = tmp_path / "out"
    real = Path.write_bytes

    def full(path, content):
        if path.name.startswith(".Ben_B") and content:
            real(path, content[:100])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    said = one_sentence(capsys, prepare_lfw, source, out)
    assert said == (
        f"cannot write {out / 'test/Ben_B/Ben_B_0001.jpg'} (No space left on device): "
        "free some disk space and run the same command again"
    )
    assert not list(out.rglob("*.part"))
    monkeypatch.setattr(Path, "write_bytes", real)

    class FullFile(io.BytesIO):
        def write(self, content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(
        _journal,
        "open",
        lambda path, mode: FullFile() if mode == "ab" else open(path, mode),
        raising=False,
    )
    assert f"cannot write {out / '.test.jsonl'} (No space left" in one_sentence(
        capsys, prepare_lfw, source, out
    )
    monkeypatch.delattr(_journal, "open")
    assert prepare_lfw.run(prepare_lfw.main, [str(source), str(out)]) == 0
    assert "pictures: 8 of" in capsys.readouterr().out


def test_an_out_that_may_not_be_written_is_not_called_full(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(
        WriteError,
        match=r"a.txt .(Not a directory|File exists).: .*make this one writable",
    ):
        write_file(tmp_path / "file" / "a.txt", "text")


def claims(width, height):
    """A PNG file of a few bytes that says it is width x height."""

    def chunk(kind, content):
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_picture_that_claims_too_many_pixels_is_not_decoded(monkeypatch):
    monkeypatch.setattr(Image.Image, "convert", lambda *args: pytest.fail("it was decoded"))
    said = str(_common.decoded(claims(13000, 13000)))
    assert "(13000 x 13000, more than the 50,000,000 pixels allowed)" in said
    assert "exceeds limit" in str(_common.decoded(claims(30000, 30000)))  # Pillow's own is above


def test_what_is_no_picture_is_told_alike_every_time(tmp_path, capsys):
    source = lay(lfw(tmp_path), {"Ben_B/Ben_B_0003.jpg": b"<html>not found</html>"})
    out = tmp_path / "out"
    assert prepare_lfw.run(prepare_lfw.main, [str(source), str(out)]) == 0
    assert (
        "Ben_B_0003.jpg: cannot be read as a picture (no picture format is known)\n"
        in (out / "left_out_test.txt").read_text()
    )


def test_minutes_of_all_calls_are_added_up(tmp_path, monkeypatch, capsys):
    source = lfw(tmp_path)
    out = tmp_path / "out"
    clock = iter(range(0, 10**6, 60))
    # each look at it is a minute later
    monkeypatch.setattr(prepare_lfw.time, "process_time", lambda: next(clock))
    real = Finder.find
    told = []

    def stops(self, frames):
        raise KeyboardInterrupt

    for find in (stops, real, real):
        monkeypatch.setattr(Finder, "find", find)
        assert prepare_lfw.run(prepare_lfw.main, [str(source), str(out)]) == (
            130 if find is stops else 0
        )
        told.append(json.loads((out / "prepared.json").read_text())["cpu_minutes"])
    assert told == [1, 2, 3] and "1.0 of processor time" in capsys.readouterr().out
    (out / "prepared.json").write_text("[")  # damaged: counted anew
    assert prepare_lfw.run(prepare_lfw.main, [str(source), str(out)]) == 0
    assert json.loads((out / "prepared.json").read_text())["cpu_minutes"] == 1


@pytest.mark.parametrize(
    "device, said",
    [
        ("cuda", "device is 'cuda', but torch sees no GPU here: use --device cpu"),
        ("mps", "device is 'mps', but torch sees no Apple GPU here: use --device cpu"),
        *(
            (name, f"device is '{name}': use cpu, cuda, cuda:1 (another GPU) or mps (an Apple GPU)")
            for name in ("banana", "gpu", "tpu", "meta", "", "cpu:01", "cuda:99999999999")
        ),
    ],
)
def test_a_device_that_is_not_there(tmp_path, capsys, monkeypatch, device, said):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert (
        one_sentence(capsys, prepare_lfw, lfw(tmp_path), tmp_path / "out", "--device", device)
        == said
    )


def test_toy_world_names_only_what_differs(tmp_path, tiny_args, capsys):
    words = tiny_args[2:]
    out = tmp_path / "toy"
    assert make_toyworld.run(make_toyworld.main, [str(out), *words]) == 0
    said = one_sentence(capsys, make_toyworld, out, *words, "--train_frames", 12)
    assert said == (
        f"{out}: was begun with 'train_frames 10', this command says 'train_frames 12'; "
        "give another OUT"
    )
    # draw nothing
    assert (
        make_toyworld.run(make_toyworld.main, [str(out), *words, "--T1", "7", "--margin", "3"]) == 0
    )


# ---------------------------------------------------------------- the mean face


def test_mean_face_is_sharp_by_landmarks_and_not_by_boxes(tmp_path):
    """One pattern, turned, scaled and moved at random: only its landmarks bring it together. Boxes
    are loose, as found ones.
    """
    chance = np.random.default_rng(0)
    pattern = crop_sampler.template((112, 96))
    ys, xs = np.mgrid[:160, :160] + 0.5
    lines = [["file", *BOX_COLUMNS, *POINT_COLUMNS], ["train/A/a.png", *[1.0] * 14]]
    for i in range(40):
        angle = chance.uniform(-0.4, 0.4)
        scale = chance.uniform(0.8, 1.2)
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        points = (pattern.numpy() - (48, 72)) @ turn.T + 80 + chance.uniform(-15, 15, 2)
        dots = sum(
            np.exp(-((xs - x) ** 2 + (ys - y) ** 2) / 2 / (3 * scale) ** 2) for x, y in points
        )
        name = f"test/P{i}/P{i}_0001.png"
        (tmp_path / name).parent.mkdir(parents=True)
        Image.fromarray((255 * np.stack([dots.clip(0, 1)] * 3, 2)).astype(np.uint8)).save(
            tmp_path / name
        )
        box = (
            *(points.min(0) - chance.uniform(5, 15, 2)),
            *(points.max(0) + chance.uniform(5, 15, 2)),
        )
        lines.append([name, *box, *points.reshape(-1)])
    (tmp_path / "landmarks.csv").write_text(
        "".join(",".join(map(str, line)) + "\n" for line in lines)
    )
    means = prepare_lfw.mean_faces(tmp_path)
    peaks = {name: [mean[int(y), int(x)].max() for x, y in pattern] for name, mean in means.items()}
    # of 255: each dot stands where D expects it
    assert min(peaks["landmarks"]) > 220 and max(peaks["pictures"]) < 120
    sharp = {name: prepare_lfw.sharpness(mean) for name, mean in means.items()}
    assert sharp["landmarks"] > 1.3 * max(sharp["boxes"], sharp["pictures"]) and means[
        "boxes"
    ].shape == (112, 96, 3)


def test_sharpness_of_a_ramp_is_its_slope():
    ramp = np.mgrid[:112, :96][0][:, :, None] * 2.0 + np.mgrid[:112, :96][1][:, :, None] * 1.5
    assert prepare_lfw.sharpness(ramp.repeat(3, 2)) == pytest.approx(2.5)


def test_readme_tells_what_the_kept_lfw_run_found():
    text = (ROOT / "data_scripts/README.md").read_text(encoding="utf-8")
    text = " ".join(text.split())  # lines may break anywhere
    kept = json.loads((ROOT / "lesson_notebooks/results/lfw/prepared.json").read_text())
    assert (
        f"found {kept['pictures']:,} of 13,233 faces, {kept['people']:,} people and "
        f"{kept['pairs']:,} of 6,000 pairs in {kept['minutes']:.1f} minutes"
    ) in text
    assert f"{kept['cpu_minutes']:.1f} minutes of processor time" in text
    assert ", ".join(f"{value:.1f}" for value in kept["sharpness"].values()) in text
    assert kept["hardware"]["cores"] == 2


# ---------------------------------------------------------------- an OUT that somebody else made


@pytest.mark.parametrize(
    "mine",
    [
        "landmarks.csv",
        "pairs_test.txt",
        "mean_face.png",
        "left_out_test.txt",
        "test/Ann_A/Ann_A_0001.jpg",
    ],
)
def test_an_out_made_by_hand_is_left_as_it_is(tmp_path, capsys, mine):
    out = lay(tmp_path / "out", {mine: b"mine"})
    said = one_sentence(capsys, prepare_lfw, lfw(tmp_path), out)
    assert f"{out / mine}: is there already" in said and "give another OUT" in said
    assert snapshot(out) == {mine: b"mine", ".lock": b""}


def test_a_test_half_made_by_hand_is_found_before_the_train_half_is_made(tmp_path, capsys):
    files = {f"P{n}/{i}.jpg": picture(60 + n + i) for n in range(6) for i in range(2)}
    out = lay(tmp_path / "out", {"pairs_test.txt": b"mine"})
    said = one_sentence(capsys, prepare_folder, lay(tmp_path / "in", files), out)
    assert "pairs_test.txt: is there already" in said and snapshot(out) == {
        "pairs_test.txt": b"mine"
    }


def test_a_picture_put_into_an_out_of_ours_is_not_written_over(tmp_path, capsys, monkeypatch):
    source = lfw(tmp_path)
    out = tmp_path / "out"
    assert prepare_lfw.run(prepare_lfw.main, [str(source), str(out)]) == 0
    _ = capsys.readouterr()
    lay(source, {"Eve_E/Eve_E_0001.jpg": picture(70)})
    lay(out, {"test/Eve_E/Eve_E_0001.jpg": b"mine"})
    said = one_sentence(capsys, prepare_lfw, source, out)
    assert "Eve_E_0001.jpg: is there already" in said
    assert (out / "test/Eve_E/Eve_E_0001.jpg").read_bytes() == b"mine"
    # as a stop leaves it that comes before the line of the journal
    lay(out, {"test/Eve_E/Eve_E_0001.jpg": picture(70)})
    assert prepare_lfw.run(prepare_lfw.main, [str(source), str(out)]) == 0


@pytest.mark.parametrize("flag, name", [("--landmarks", "landmarks.csv"), ("--pairs", "p.txt")])
def test_a_table_in_out_is_refused(tmp_path, capsys, flag, name):
    source = lfw(tmp_path)
    out = lay(tmp_path / "out", {name: b"mine"})
    said = one_sentence(capsys, prepare_lfw, source, out, flag, out / name)
    assert f"{name}: lies in OUT" in said and "move it out" in said
    assert snapshot(out) == {name: b"mine"}


def test_a_toy_world_is_not_drawn_over_a_folder_made_by_hand(tmp_path, tiny_args, capsys):
    out = lay(tmp_path / "toy", {"faces/landmarks.csv": b"mine"})
    said = one_sentence(capsys, make_toyworld, out, *tiny_args[2:])
    assert "landmarks.csv: is there already" in said
    assert snapshot(out) == {"faces/landmarks.csv": b"mine"}


# ---------------------------------------------------------------- journals


def casia(folder):
    return lay(folder, {f"00{n}/{i:03d}.jpg": picture(70 + n + i) for n in (1, 2) for i in (1, 2)})


def test_a_torn_line_in_the_other_half_is_dropped(tmp_path, capsys):
    out = tmp_path / "out"
    source = casia(tmp_path / "casia")
    assert prepare_casia.run(prepare_casia.main, [str(source), str(out)]) == 0
    journal = out / ".train.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])
    assert prepare_lfw.run(prepare_lfw.main, [str(lfw(tmp_path)), str(out)]) == 0
    assert (out / "landmarks.csv").read_text().count("\ntrain/") == 3
    assert prepare_casia.run(prepare_casia.main, [str(source), str(out)]) == 0
    assert (out / "landmarks.csv").read_text().count("\ntrain/") == 4


@pytest.mark.parametrize(
    "journal, number",
    [
        ("5\n", 1),
        ("{}\n", 1),
        ('["how"]\n', 1),
        ('{"how": 5}\n', 1),
        ('{"how": "faces by mtcnn"}\n{}\n', 2),
        ('{"how": "faces by mtcnn"}\n"file"\n', 2),
        ('{"how": "faces by mtcnn"}\n{"file": "tr\n', 2),
        ('{"how": "faces by mtcnn"}\n\xff\n', 2),
    ],
)
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_damaged_journal_is_named(tmp_path, capsys, journal, number, split):
    out = lay(tmp_path / "out", {f".{split}.jsonl": journal.encode("latin1")})
    said = one_sentence(capsys, prepare_casia, casia(tmp_path / "casia"), out)
    assert f".{split}.jsonl: line {number} is damaged; restore the file" in said


# ---------------------------------------------------------------- stopped from outside


@pytest.mark.parametrize("name", files.STOPS)
def test_a_signal_stops_as_ctrl_c_does(tmp_path, capsys, monkeypatch, name):
    if not hasattr(signal, name):
        pytest.skip(f"{name} is not a signal here")
    number = getattr(signal, name)
    real = Path.write_bytes

    def stopped(path, content):
        if path.name.startswith(".Ben_B") and content:
            os.kill(os.getpid(), number)
        return real(path, content)

    monkeypatch.setattr(Path, "write_bytes", stopped)
    out = tmp_path / "out"
    caught = []  # what is not turned into a stop must not end the tests
    before = signal.signal(number, lambda *args: caught.append(args))
    try:
        assert prepare_lfw.run(prepare_lfw.main, [str(lfw(tmp_path)), str(out)]) == 130
        os.kill(os.getpid(), number)  # the old handler is back
    finally:
        signal.signal(number, before)
    assert "stopped; the same command continues" in capsys.readouterr().err
    assert not list(out.rglob("*.part")) and (out / ".test.jsonl").exists()
    assert len(caught) == 1


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="SIGHUP is not a signal here")
def test_nohup_keeps_its_meaning():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert _common.run(lambda argv: os.kill(os.getpid(), signal.SIGHUP)) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_unfinished_files_of_a_killed_run_are_cleared(tmp_path):
    source = lfw(tmp_path)
    out = tmp_path / "out"
    assert prepare_lfw.run(prepare_lfw.main, [str(source), str(out)]) == 0
    lay(out, {"test/Ann_A/.Ann_A_0001.jpg.123.part": b"half", "test/.mine.part": b"mine"})
    assert prepare_lfw.run(prepare_lfw.main, [str(source), str(out)]) == 0
    assert [path.name for path in out.rglob("*.part")] == [".mine.part"]


# ---------------------------------------------------------------- folders of one's own


def own_halves(train="train", test="test", people=5):
    return {
        f"{split}/{split}{n}/{i}.jpg": picture(60 + n + i)
        for split in (train, test)
        for n in range(people)
        for i in range(2)
    }


def test_own_halves_may_be_written_in_capitals(tmp_path):
    source = lay(tmp_path / "in", own_halves("Train", "TEST"))
    out = tmp_path / "out"
    assert prepare_folder.run(prepare_folder.main, [str(source), str(out)]) == 0
    assert {path.name for path in (out / "train").iterdir()} == {f"Train{n}" for n in range(5)}
    assert {path.name for path in (out / "test").iterdir()} == {f"TEST{n}" for n in range(5)}


def test_pictures_that_are_not_taken_are_named_and_counted(tmp_path, capsys):
    others = {
        "val/V/1.jpg": "it lies neither in train/PERSON nor in test/PERSON",
        "train/loose.png": "it lies neither in train/PERSON nor in test/PERSON",
        "one.jpg": "it lies in no folder of a person",
        "train/G/1.GIF": "its format is not read; save it as JPEG or PNG",
        "test/H/1.tif": "its format is not read; save it as JPEG or PNG",
        "train/K/1.jfif": "its format is not read; save it as JPEG or PNG",
    }
    files = own_halves() | {name: picture(90) for name in others}
    source = lay(tmp_path / "in", files | {"train/._1.gif": b"x", "notes.txt": b"x"})
    out = tmp_path / "out"
    assert prepare_folder.run(prepare_folder.main, [str(source), str(out)]) == 0
    said = capsys.readouterr()
    assert "left out (named above): 5\n" in said.out and "left out (named above): 1\n" in said.out
    listed = (out / "left_out_train.txt").read_text() + (out / "left_out_test.txt").read_text()
    assert sorted(listed.splitlines()) == sorted(f"{name}: {why}" for name, why in others.items())
    assert all(f"left out: {line}" in said.err for line in listed.splitlines())


SIDE = "the people's folders must lie side by side"


@pytest.mark.parametrize(
    "layout, stray, said",
    [
        ("{n}/2019/{i}.jpg", "", f"P0/2019/0.jpg and P1/2019/0.jpg: {SIDE}"),
        ("{n}/{i}/1.jpg", "", f"P0/0/1.jpg and P1/0/1.jpg: {SIDE}"),
        ("a/train/{n}/{i}.jpg", "train/A/x.jpg", f"a/train/P0/0.jpg and train/A/x.jpg: {SIDE}"),
        ("a/{n}/{i}.jpg", "a/x.jpg", f"a/P0/0.jpg and a/x.jpg: {SIDE}"),
        ("train/city/{n}/{i}.jpg", "", "lies deeper than train/PERSON/PICTURE; move the people's"),
        ("Test/{n}/2019/{i}.jpg", "", "lies deeper than test/PERSON/PICTURE; move the people's"),
    ],
)
def test_pictures_whose_person_is_not_known_are_refused(tmp_path, capsys, layout, stray, said):
    """Their folder may be a year, and the years of several people would be one person."""
    files = {layout.format(n=f"P{n}", i=i): picture(60 + n + i) for n in range(8) for i in (0, 1)}
    if stray:
        files[stray] = picture(90)
    source = lay(tmp_path / "in", files)
    assert said in one_sentence(capsys, prepare_folder, source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_folder_between_is_the_same_for_all(tmp_path):
    """As an archive has it."""
    for number, layout in enumerate(("pack/{n}/{i}.jpg", "pack/{h}/{n}/{i}.jpg")):
        files = {
            layout.format(h="test" if n > 3 else "train", n=f"P{n}", i=i): picture(60 + n + i)
            for n in range(8)
            for i in (0, 1)
        }
        source = shutil.make_archive(
            str(tmp_path / f"in{number}"), "zip", lay(tmp_path / f"in{number}", files)
        )
        out = tmp_path / f"out{number}"
        assert prepare_folder.run(prepare_folder.main, [source, str(out)]) == 0
        assert len(list(out.glob("t*/P*/*.jpg"))) == 16


def test_an_archive_is_read_in_its_own_order(tmp_path, monkeypatch):
    """Most are in no order of names; to go back in a .tgz is to unpack it again from the start."""
    names = [
        f"{half}/P{n}{half}/{i}.jpg"
        for n in (3, 1, 2, 0)
        for i in (1, 0)
        for half in ("test", "train")
    ]
    with tarfile.open(tmp_path / "in.tgz", "w:gz") as archive:
        for number, name in enumerate(names):
            content = picture(60 + number)
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    read = []
    plain = _untrusted._Tar.read
    monkeypatch.setattr(_untrusted._Tar, "read", lambda *args: read.append(args[1]) or plain(*args))
    words = [str(tmp_path / "in.tgz"), str(tmp_path / "out")]
    assert prepare_folder.run(prepare_folder.main, words) == 0
    assert read == sorted(names, key=lambda name: name.startswith("test"))


@pytest.mark.parametrize("script", [prepare_casia, prepare_folder])
def test_why_nothing_can_be_used_is_told(tmp_path, capsys, script):
    """Such as an archive with a password, of which no picture can be read."""
    files = {f"P{n}/{i}.jpg": b"x" for n in range(6) for i in range(2)}
    if script is prepare_folder:
        files["annotations.csv"] = b"file,split,action,x_min,y_min,x_max,y_max\n" + b"".join(
            b"P%d/0.jpg,train,wave,1,2,3,4\n" % n for n in range(6)
        )
    words = [str(lay(tmp_path / "in", files)), str(tmp_path / "out")]
    assert script.run(script.main, words) == 2
    said = capsys.readouterr().err.splitlines()
    assert "P0/0.jpg: cannot be read as a picture" in said[0]
    assert said[-1].startswith("no usable") and said[-1].endswith("-h says how to arrange it")


def test_one_person_in_two_spellings_is_refused(tmp_path, capsys):
    files = own_halves() | {"train/ann lee/1.jpg": picture(90), "test/Ann_Lee/1.jpg": picture(91)}
    said = one_sentence(capsys, prepare_folder, lay(tmp_path / "in", files), tmp_path / "out")
    assert "'ann lee' is in train and as 'Ann_Lee' in test; nobody may be in both" in said


@pytest.mark.parametrize(
    "names, said",
    [
        ("train/{n}/{i}.jpg", "has 0 people for the test half, which needs 1, and 3 for train"),
        ("test/{n}/{i}.jpg", "has 0 people for the train half, which needs 2, and 3 for test"),
        ("{n}/{i}.jpg", "has 0 people for the train half, which needs 2, and 3 for test"),
    ],
)
def test_a_half_without_people_is_told_at_the_start(tmp_path, capsys, monkeypatch, names, said):
    monkeypatch.setattr(_common, "gather", lambda *args: pytest.fail("it began"))
    files = {names.format(n=n, i=i): picture(60 + n + i) for n in range(3) for i in range(2)}
    source = lay(tmp_path / "in", files)
    assert said in one_sentence(capsys, prepare_folder, source, tmp_path / "out")


def test_one_person_to_train_on_is_too_few(tmp_path, capsys, monkeypatch):
    """D's loss would be 0 from the start: of five people, four are for the test."""
    monkeypatch.setattr(_common, "gather", lambda *args: pytest.fail("it began"))
    files = {f"{n}/{i}.jpg": picture(60 + n + i) for n in range(5) for i in range(2)}
    said = one_sentence(capsys, prepare_folder, lay(tmp_path / "in", files), tmp_path / "out")
    assert "has 1 people for the train half, which needs 2" in said and "six at least" in said


@pytest.mark.parametrize("hidden", [".thumbnails/{}.jpg", "Ann/.thumbs/{}.jpg", "@eaDir/a/{}.jpg"])
@pytest.mark.parametrize("zipped", [False, True])
def test_pictures_in_hidden_folders_are_nobodys(tmp_path, hidden, zipped):
    """Thumbnails of everybody would be two more people, of whom D may see test people's."""
    files = {hidden.format(i): picture(70 + i) for i in range(3)} | {"./Ann/1.jpg": picture(60)}
    source = lay(tmp_path / "in", files)
    if zipped:
        source = Path(shutil.make_archive(str(tmp_path / "in"), "zip", source))
    members = _untrusted.open_source(source).members
    assert [str(PurePosixPath(name)) for name in members if name.endswith("jpg")] == ["Ann/1.jpg"]


@pytest.mark.parametrize(
    "numbers, header",
    [
        ([100] * 9 + [2] + [1] * 10, "5\t300"),  # nine have 100 each, ten 1
        ([100] * 5 + [2] + [1] * 6, "3\t300"),  # five have 100 each, six 1
        ([2] * 4, "2\t2"),
    ],
)
def test_a_fold_less_where_that_makes_more_pairs(numbers, header):
    files = [f"p{n}/p{n}_{i:04d}.jpg" for n, count in enumerate(numbers) for i in range(count)]
    assert prepare_folder.draw_pairs(files).splitlines()[0] == header


def test_too_few_test_people_are_told_at_the_start(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(_common, "gather", lambda *args: pytest.fail("it began"))
    source = lay(tmp_path / "in", own_halves(people=3))
    said = one_sentence(capsys, prepare_folder, source, tmp_path / "out")
    assert "the test half has 3 people, 3 of them with two pictures" in said


# ---------------------------------------------------------------- tables and changed pictures


@pytest.mark.parametrize("script", [prepare_lfw, prepare_casia, prepare_folder])
def test_a_table_of_other_names_is_refused_by_name(tmp_path, capsys, script):
    table = csv_of_points(tmp_path / "t.csv", [f"/data/{file}" for file in lfw_files()])
    source = lfw(tmp_path)
    lay(source, {f"Eve{n}_E/{i}.jpg": picture(70 + n + i) for n in range(3) for i in range(2)})
    said = one_sentence(capsys, script, source, tmp_path / "out", "--landmarks", table)
    assert said.startswith(f"{table}: none of its 10 rows is of a picture of SOURCE")
    assert "'/data/Ann_A/Ann_A_0001.jpg'" in said and "'Ann_A/Ann_A_0001.jpg'" in said
    assert not (tmp_path / "out").exists()


def test_rows_of_a_table_that_match_no_picture_are_counted(tmp_path, capsys):
    rows = [
        [file, 10, 20, 50, 60, *POINTS.flatten().tolist()] for file in [*lfw_files(), "Eve/1.jpg"]
    ]
    table = tmp_path / "t.csv"
    table.write_text(_journal.table_text(["file", *BOX_COLUMNS, *POINT_COLUMNS], rows))
    words = [str(lfw(tmp_path)), str(tmp_path / "out"), "--landmarks", str(table)]
    assert prepare_lfw.run(prepare_lfw.main, words) == 0
    said = capsys.readouterr().out
    assert f"{table}: 1 rows match no picture, such as Eve/1.jpg\n" in said


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_a_picture_changed_without_another_size_is_noticed(tmp_path, capsys, kind):
    files = {name: picture(90 + i, form="BMP") for i, name in enumerate(lfw_files())}
    source = lay(tmp_path / "in" / "lfw", files)
    (tmp_path / "pairs.txt").write_text(PAIRS)
    pairs = ["--pairs", str(tmp_path / "pairs.txt")]
    out = tmp_path / "out"
    assert prepare_lfw.run(prepare_lfw.main, [str(source), str(out), *pairs]) == 0
    done = snapshot(out)
    _ = capsys.readouterr()
    lay(source, {"Cid_C/Cid_C_0001.jpg": picture(60, form="BMP")})
    if kind != "folder":
        source = shutil.make_archive(str(tmp_path / "packed"), kind, source)
    said = one_sentence(capsys, prepare_lfw, source, out, *pairs)
    assert "holds 1 picture that SOURCE lacks, or has with other content" in said
    assert "such as test/Cid_C/Cid_C_0001.jpg" in said and snapshot(out) == done


def test_a_rerun_says_that_it_compares(tmp_path, capsys):
    """Of half a million pictures that takes minutes."""
    source = casia(tmp_path / "casia")
    said = "pictures in OUT, compared with SOURCE now: 4\n"
    for count in (0, 1):
        assert prepare_casia.run(prepare_casia.main, [str(source), str(tmp_path / "out")]) == 0
        assert capsys.readouterr().out.count(said) == count


def test_a_journal_without_checksums_is_gone_on_with(tmp_path):
    source = lfw(tmp_path)
    out = tmp_path / "out"
    assert prepare_lfw.run(prepare_lfw.main, [str(source), str(out)]) == 0
    journal = out / ".test.jsonl"
    entries = [json.loads(line) for line in journal.read_text().splitlines()]
    for entry in entries:
        entry.pop("crc", None)
    journal.write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))
    assert prepare_lfw.run(prepare_lfw.main, [str(source), str(out)]) == 0
