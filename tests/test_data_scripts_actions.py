"""JHMDB, DALY and frames with boxes: miniatures in the official formats, read back by the reader
that training uses.
"""

import copy
import csv
import io
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "data_scripts"))

import prepare_daly
import prepare_folder
import prepare_jhmdb
from red_square import encode
from test_data_scripts import finder, lay, one_sentence, snapshot  # noqa: F401
from test_data_scripts_untrusted import Call, mat, py2

from ppad import datasets, mtcnn
from ppad.files import DataError

SIZE = 64, 48  # W, H


def frame(value, size=SIZE):
    content = io.BytesIO()
    Image.fromarray(np.full((size[1], size[0], 3), value, np.uint8)).save(content, "PNG")
    return content.getvalue()


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def box_of(row):
    return [float(row[column]) for column in ("x_min", "y_min", "x_max", "y_max")]


# ---------------------------------------------------------------- JHMDB

MINI = {
    ("brush_hair", "April_09_#1_a"): 1,
    ("brush_hair", "Bed_b"): 2,
    ("wave", "Hi_c"): 1,
    ("wave", "Lo_d"): 2,
}


def mask_of(clip, frames=4):
    """Frame t: a body of two parts in columns 5+t .. 20+t, rows 8 .. 40-t; frame 3 is empty."""
    mask = np.zeros((SIZE[1], SIZE[0], frames), np.uint8)
    for t in range(frames):
        if t != 2:
            mask[8:20, 5 + t : 12 + t, t] = 1
            mask[20 : 41 - t, 10 + t : 21 + t, t] = 5
    return mask


def jhmdb(folder):
    files = {}
    for (action, video), _ in MINI.items():
        for number in range(1, 6):  # the fifth frame has no mask
            files[f"Rename_Images/{action}/{video}/{number:05d}.png"] = frame(100 + number)
        files[f"puppet_mask/{action}/{video}/puppet_mask.mat"] = mat(
            {"part_mask": mask_of((action, video))}
        )
    for action in ("brush_hair", "wave"):
        text = "".join(
            f"{video}.avi {which} \n" for (a, video), which in MINI.items() if a == action
        )
        files[f"splits/{action}_test_split1.txt"] = text.encode()
        files[f"splits/{action}_test_split2.txt"] = text.replace(" 1", " 2").encode()
    return lay(folder, files)


def test_jhmdb_miniature(tmp_path, capsys):
    source = jhmdb(tmp_path / "in")
    out = tmp_path / "out"
    before = snapshot(source)
    assert prepare_jhmdb.run(prepare_jhmdb.main, [str(source), str(out)]) == 0
    said = capsys.readouterr().out
    assert (
        "clips: 4 of 928, 924 missing" in said
        and "classes: 2 of 21" in said
        and "frames: 12\n" in said
    )
    assert (
        "train clips of split 1: 2 of 2" in said
        and "dropped: 4 frames beyond the last mask, 4 with an empty mask" in said
    )
    assert snapshot(source) == before
    people = {row["file"]: row for row in rows(out / "annotations.csv")}
    assert len(people) == 12
    for (action, video), which in MINI.items():
        for number in (1, 2, 4):  # by hand: columns 5+t to 20+t, rows 8 to 40-t, as edges
            t = number - 1
            row = people[f"{action}/{video}/{number:05d}.png"]
            assert box_of(row) == [5 + t, 8, 21 + t, 41 - t]
            assert (row["split"], row["action"]) == ({1: "train", 2: "test"}[which], action)
    train, test = (
        datasets.read_actions(out, out / "annotations.csv", out / "faces.csv", split, (48, 64))
        for split in ("train", "test")
    )
    assert (
        len(train) == len(test) == 6
        and train.classes == ["brush_hair", "wave"]
        and len(train.face_boxes[0]) == 2
    )


def test_jhmdb_pickle_gives_what_the_masks_give(tmp_path, capsys):
    source = jhmdb(tmp_path / "in")
    assert prepare_jhmdb.run(prepare_jhmdb.main, [str(source), str(tmp_path / "masks")]) == 0
    tubes = {}
    classes = ["brush_hair", "wave"]
    for action, video in MINI:
        found = [
            (t + 1, box) for t, box in enumerate(prepare_jhmdb.boxes_of_masks(mask_of(None))) if box
        ]
        tubes[f"{action}/{video}"] = {
            classes.index(action): [np.array([[number, *box] for number, box in found], np.float32)]
        }
    names = {which: [f"{a}/{v}" for (a, v), w in MINI.items() if w == which] for which in (1, 2)}
    truth = {
        "labels": classes,
        "gttubes": tubes,
        "nframes": dict.fromkeys(tubes, 4),
        "resolution": dict.fromkeys(tubes, SIZE[::-1]),
        "train_videos": [names[1], names[2], []],
        "test_videos": [names[2], names[1], []],
    }
    (source / "JHMDB-GT.pkl").write_bytes(py2(truth))
    shutil.rmtree(source / "puppet_mask")
    shutil.rmtree(source / "splits")
    (source / "Rename_Images").rename(source / "Frames")
    assert prepare_jhmdb.run(prepare_jhmdb.main, [str(source), str(tmp_path / "tubes")]) == 0
    assert rows(tmp_path / "tubes/annotations.csv") == rows(tmp_path / "masks/annotations.csv")
    truth["train_videos"][0] = ["../../etc/passwd"]
    (source / "JHMDB-GT.pkl").write_bytes(py2(truth))
    assert "'../../etc/passwd'" in one_sentence(capsys, prepare_jhmdb, source, tmp_path / "x")
    (source / "JHMDB-GT.pkl").write_bytes(py2({"labels": classes}))
    assert "it lacks 'gttubes'" in one_sentence(capsys, prepare_jhmdb, source, tmp_path / "x")


def test_jhmdb_names_what_is_missing_or_broken(tmp_path, capsys):
    source = jhmdb(tmp_path / "in")
    out = tmp_path / "out"
    shutil.rmtree(source / "Rename_Images/wave/Hi_c")
    (source / "puppet_mask/wave/Lo_d/puppet_mask.mat").unlink()
    (source / "Rename_Images/brush_hair/Bed_b/00001.png").write_bytes(frame(90)[:60])
    (source / "Rename_Images/brush_hair/Bed_b/00002.png").write_bytes(frame(90, (80, 48)))
    assert prepare_jhmdb.run(prepare_jhmdb.main, [str(source), str(out)]) == 0
    said = capsys.readouterr()
    assert (
        "wave/Hi_c: no folder of frames" in said.out and "wave/Lo_d: no puppet_mask.mat" in said.out
    )
    assert (
        "Bed_b/00001.png: cannot be read" in said.err
        and "Bed_b/00002.png: is 80 x 48, its ground truth is for 64 x 48" in said.err
    )
    assert len(rows(out / "annotations.csv")) == 4
    assert "neither puppet_mask/ nor" in one_sentence(capsys, prepare_jhmdb, out, tmp_path / "x")
    (source / "splits/wave_test_split1.txt").write_text("Lo_d.avi 3\n")
    assert "line 1" in one_sentence(capsys, prepare_jhmdb, source, tmp_path / "x")


@pytest.mark.parametrize("truth", ["masks", "pickle"])
def test_jhmdb_frames_numbered_from_0_are_refused(tmp_path, capsys, truth):
    source = jhmdb(tmp_path / "in")
    clip = source / "Rename_Images/wave/Hi_c"
    for number in range(1, 6):
        (clip / f"{number:05d}.png").rename(clip / f"{number - 1:05d}.png")
    said = one_sentence(capsys, prepare_jhmdb, source, tmp_path / "out")
    assert f"{clip}: its frames are numbered from 0" in said


def test_jhmdb_hidden_and_foreign_files_do_no_harm(tmp_path, capsys):
    source = jhmdb(tmp_path / "in")
    (source / "splits/._wave_test_split1.txt").write_bytes(b"\0\5\x16\7\0\2\xff")
    (source / "splits/.DS_Store").write_bytes(b"\0\xff")
    (source / "Rename_Images/wave/Hi_c/._00001.png").write_bytes(b"x")
    (source / "Rename_Images/wave/Hi_c/Thumbs.db").write_bytes(b"x")
    assert prepare_jhmdb.run(prepare_jhmdb.main, [str(source), str(tmp_path / "out")]) == 0
    assert "frames: 12\n" in capsys.readouterr().out
    (source / "splits/wave_test_split1.txt").write_bytes("H\u00ef_c.avi 1\n".encode("latin1"))
    assert "save it in UTF-8" in one_sentence(capsys, prepare_jhmdb, source, tmp_path / "x")


def test_malicious_jhmdb_split_writes_nothing_outside(tmp_path, capsys):
    """A clip's name becomes a folder in OUT: one that leads out of it, to where a clip lies ready,
    is refused.
    """
    source = jhmdb(tmp_path / "in")
    (source / "splits/wave_test_split1.txt").write_text("../../Rename_Images/wave/Hi_c.avi 1\n")
    shutil.copy(
        source / "puppet_mask/wave/Hi_c/puppet_mask.mat", source / "Rename_Images/wave/Hi_c"
    )
    said = one_sentence(capsys, prepare_jhmdb, source, tmp_path / "out")
    assert "names a video 'wave/../../Rename_Images/wave/Hi_c', which is not CLASS/VIDEO" in said
    assert sorted(os.listdir(tmp_path)) == ["in"]


def test_malicious_jhmdb_pickle_does_nothing(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/JHMDB-GT.pkl").write_bytes(
        pickle.dumps({"gttubes": Call(os.system, f"touch {tmp_path / 'trace'}")}, protocol=2)
    )
    assert "system" in one_sentence(capsys, prepare_jhmdb, tmp_path / "in", tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["in"]


# ---------------------------------------------------------------- DALY

needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
VIDEOS = {"-aB_c3456789": 20, "zzzzzzzzzz1": 30}  # id: frames. A YouTube id may begin with a hyphen


def movie(path, frames):
    """A movie whose frame n (from 1) is gray, 40 + 5 n: its brightness tells its number."""
    gray = [np.full((48, 64, 3), 40 + 5 * n, np.uint8) for n in range(1, frames + 1)]
    encode(path, gray, "-c:v", "mpeg4", "-q:v", "1", "-g", "10")


def keyframe(number, *box):
    return {
        "time": (number - 1) / 25,
        "frameNumber": number,
        "boundingBox": np.array([box], np.float32).reshape(-1, 4),
        "objects": np.zeros((0, 7)),
        "pose": np.zeros((0, 3)),
    }


def instance(*keyframes):
    return {
        "beginTime": 0.0,
        "endTime": 1.0,
        "keyframes": list(keyframes),
        "flags": {"isSmall": False, "isZoom": True},
    }


def daly_annotation():
    ids = list(VIDEOS)
    annot = {
        f"{ids[0]}.mp4": {
            "suggestedClass": "Drinking",
            "annot": {
                "Drinking": [
                    instance(keyframe(1, 0.25, 0.5, 0.5, 1), keyframe(17, 0, 0, 1.2, 0.5)),
                    instance(keyframe(17, 0.5, 0.5, 0.75, 0.75)),
                ],
                "Phoning": [
                    instance(keyframe(8, 0.1, 0.1, 0.1, 0.4), keyframe(9), keyframe(21, 0, 0, 1, 1))
                ],
            },
        },  # no area; no box; no such frame
        f"{ids[1]}.mp4": {
            "suggestedClass": "Ironing",
            "annot": {
                "Ironing": [instance(keyframe(30, 0.25, 0.25, 0.5, 0.5), keyframe(31, 0, 0, 1, 1))]
            },
        },
        "gone_video1.mp4": {
            "suggestedClass": "Ironing",
            "annot": {"Ironing": [instance(keyframe(3, 0, 0, 1, 1))]},
        },
    }
    return {
        "splits": [[f"{ids[1]}.mp4"]],
        "joints": ["head"],
        "labels": ["Drinking", "Ironing", "Phoning"],
        "annot": annot,
        "version": "1.1.0",
        "objectList": ["bottle"],
        "metadata": {name: {"fps": 25.0, "nbframes_ffmpeg": 20, "duration": 0.8} for name in annot},
    }


def daly(folder):
    (folder / "videos").mkdir(parents=True)
    (folder / "daly1.1.0.pkl").write_bytes(py2(daly_annotation()))
    for name, frames in VIDEOS.items():
        movie(folder / "videos" / f"{name}.mp4", frames)
    return folder


@needs_ffmpeg
def test_daly_miniature(tmp_path, capsys, monkeypatch):
    source = daly(tmp_path / "in")
    out = tmp_path / "out"
    before = snapshot(source)
    assert prepare_daly.run(prepare_daly.main, [str(source), str(out)]) == 0
    said = capsys.readouterr()
    assert (
        "videos: 2 of 510" in said.out
        and "test videos: 1 of 200" in said.out
        and "1 movies are not in SOURCE: gone_video1" in said.out
    )
    assert (
        "annotated frames: 3 of 6, 3 missing" in said.out
        and "person boxes: 4 of 7" in said.out
        and "without a box: 2" in said.out
    )
    assert (
        "zzzzzzzzzz1.mp4 has no readable frame 31" in said.err
        and "-aB_c3456789.mp4 has no readable frame 21" in said.err
    )
    assert snapshot(source) == before and not (out / ".frames").exists()
    table = {(row["file"], row["x_min"]): row for row in rows(out / "annotations.csv")}
    first, second = list(VIDEOS)
    assert {(key[0], row["action"], row["split"], *box_of(row)) for key, row in table.items()} == {
        (f"{first}/000001.png", "Drinking", "train", 16, 24, 32, 48),
        (f"{first}/000017.png", "Drinking", "train", 0, 0, 64, 24),
        (f"{first}/000017.png", "Drinking", "train", 32, 24, 48, 36),
        (f"{second}/000030.png", "Ironing", "test", 16, 12, 32, 24),
    }
    for file in {key[0] for key in table}:  # the very frame, to the number
        grey = np.asarray(Image.open(out / file)).mean()
        assert round((grey - 40) / 5) == int(Path(file).stem), (file, grey)
    tables = (out / "annotations.csv", out / "faces.csv")
    with pytest.raises(DataError, match="frame shows the action 'Ironing'; .* delete its rows"):
        datasets.read_actions(out, *tables, "train", (48, 64))
    for table in tables:
        lines = table.read_text().splitlines(keepends=True)
        (tmp_path / table.name).write_text("".join(x for x in lines if "zzzz" not in x))
    learned = (tmp_path / "annotations.csv", tmp_path / "faces.csv")
    train = datasets.read_actions(out, *learned, "train", (48, 64))
    assert len(train) == 2 and [len(boxes) for boxes in train.boxes] == [1, 2]

    calls = []
    monkeypatch.setattr(prepare_daly, "extract", lambda *args: calls.append(args[:2]) or ({}, "-"))
    shutil.copy(source / f"videos/{first}.mp4", source / "videos/gone_video1.mp4")
    # goes on: only what is not there
    assert prepare_daly.run(prepare_daly.main, [str(source), str(out)]) == 0
    assert [(path.stem, numbers) for path, numbers in calls] == [
        (first, [21]),
        ("gone_video1", [3]),
        (second, [31]),
    ]


@needs_ffmpeg
@pytest.mark.parametrize("rate", [50, 24, 12.5, 30])
def test_daly_a_movie_of_another_rate_gives_the_frame_of_that_time(tmp_path, capsys, rate):
    """Frame 17 of 25 a second is shown at 0.64 s: at 50 a second it is number 33."""
    source = daly(tmp_path / "in")
    first = next(iter(VIDEOS))
    gray = [
        np.full((48, 64, 3), 40 + round(125 * i / rate), np.uint8) for i in range(int(0.8 * rate))
    ]
    encode(source / f"videos/{first}.mp4", gray, "-c:v", "mpeg4", "-q:v", "1", rate=rate)
    assert prepare_daly.run(prepare_daly.main, [str(source), str(tmp_path / "out")]) == 0
    for number in (1, 17):
        value = np.asarray(Image.open(tmp_path / f"out/{first}/{number:06d}.png")).mean()
        seconds = (value - 40) / 125
        assert abs(seconds - (number - 1) / 25) <= 0.51 / min(rate, 25) + 0.01


@needs_ffmpeg
def test_daly_a_movie_of_another_length_is_left_out(tmp_path, capsys):
    source = daly(tmp_path / "in")
    first = next(iter(VIDEOS))
    movie(source / f"videos/{first}.mp4", 40)
    assert prepare_daly.run(prepare_daly.main, [str(source), str(tmp_path / "out")]) == 0
    said = capsys.readouterr().err
    assert "it lasts 1.6 s and the annotated movie 0.8 s: this is another version" in said
    assert not (tmp_path / "out" / first).exists()


@needs_ffmpeg
def test_daly_a_playlist_called_movie_reads_nothing(tmp_path, capsys):
    """ffmpeg would follow a playlist to other files; only movie formats are let in."""
    source = daly(tmp_path / "in")
    other = tmp_path / "secret.mp4"
    shutil.move(source / f"videos/{list(VIDEOS)[0]}.mp4", other)
    (source / f"videos/{list(VIDEOS)[0]}.mp4").write_text(
        f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{other}\n#EXT-X-ENDLIST\n"
    )
    assert prepare_daly.run(prepare_daly.main, [str(source), str(tmp_path / "out")]) == 0
    assert (
        "000001.png" in capsys.readouterr().err and len(rows(tmp_path / "out/annotations.csv")) == 1
    )


@needs_ffmpeg
def test_daly_more_keyframes_than_ffmpeg_adds_up(tmp_path):
    """ffmpeg refuses a sum of more than 100 terms; 2,600 fill the tree's second level too, most of
    them not in the movie.
    """
    path = tmp_path / "m.mp4"
    subprocess.run(
        [
            "ffmpeg",
            "-v",
            "error",
            "-f",
            "lavfi",
            "-i",
            "testsrc=size=32x32:rate=25",
            "-frames:v",
            "130",
            "-c:v",
            "mpeg4",
            f"file:{path}",
        ],
        check=True,
    )
    for count, there in ((120, 120), (2600, 130)):
        pictures, complaint = prepare_daly.extract(
            path, list(range(1, count + 1)), tmp_path / "frames"
        )
        assert (
            list(pictures) == list(range(1, there + 1)) and complaint == "it ends before that frame"
        )


@needs_ffmpeg
def test_daly_quotes_why_ffmpeg_failed(tmp_path):
    """The first line, without the address in memory, which differs from run to run; the last only
    says that it failed.
    """
    (tmp_path / "m.mp4").write_bytes(b"no movie")
    assert prepare_daly.extract(tmp_path / "m.mp4", [1], tmp_path / "frames") == (
        {},
        "moov atom not found",
    )


def test_daly_a_full_disk_ends_the_run(tmp_path, monkeypatch):
    """All further movies would else be left out as damaged, with status 0."""

    def full(command, **options):
        said = "av_interleaved_write_frame(): No space left on device\n"
        return subprocess.CompletedProcess(command, 1, "", said)

    monkeypatch.setattr(prepare_daly.subprocess, "run", full)
    with pytest.raises(OSError, match="cannot write .* free some disk space"):
        prepare_daly.extract(tmp_path / "a.mp4", [1], tmp_path / "frames")


def test_daly_user_mistakes(tmp_path, capsys, monkeypatch):
    source = tmp_path / "in"
    (source / "videos").mkdir(parents=True)
    monkeypatch.setattr(prepare_daly.shutil, "which", lambda name: "/usr/bin/ffmpeg")
    assert "no such file" in one_sentence(capsys, prepare_daly, source, tmp_path / "out")
    path = source / "daly1.1.0.pkl"
    path.write_bytes(
        pickle.dumps({"annot": Call(os.system, f"touch {tmp_path / 'trace'}")}, protocol=2)
    )
    assert "system" in one_sentence(capsys, prepare_daly, source, tmp_path / "out")
    wrong = daly_annotation()
    wrong["annot"]["../../evil.mp4"] = wrong["annot"].pop("gone_video1.mp4")
    path.write_bytes(py2(wrong))
    assert "'../../evil.mp4'" in one_sentence(capsys, prepare_daly, source, tmp_path / "out")
    path.write_bytes(py2({"annot": {}}))
    assert "not DALY's annotation" in one_sentence(capsys, prepare_daly, source, tmp_path / "out")
    path.write_bytes(py2(daly_annotation()))
    # no movie is there
    assert "no usable frame" in one_sentence(capsys, prepare_daly, source, tmp_path / "out")
    monkeypatch.setattr(prepare_daly.shutil, "which", lambda name: None)
    assert "ffmpeg is not installed" in one_sentence(capsys, prepare_daly, source, tmp_path / "out")
    assert not (tmp_path / "trace").exists()


# ---------------------------------------------------------------- frames of one's own

TABLE = """file,split,action,x_min,y_min,x_max,y_max
a/1.png,train,wave,1,2,30,40
a/1.png,train,jump,5,5,20,20
b/2.png,test,wave,0,0,64,48
b/3.png,test,jump,0,0,9,9
"""


def own(folder, table=TABLE):
    return lay(
        folder,
        {
            "a/1.png": frame(90),
            "b/2.png": frame(91),
            "b/3.png": frame(92)[:50],
            "annotations.csv": table.encode(),
        },
    )


def test_own_frames(tmp_path, capsys):
    source = own(tmp_path / "in")
    out = tmp_path / "out"
    assert prepare_folder.run(prepare_folder.main, [str(source), str(out)]) == 0
    said = capsys.readouterr()
    assert "test frames: 1 of 2, 1 missing" in said.out and "b/3.png: cannot be read" in said.err
    train = datasets.read_actions(
        out, out / "annotations.csv", out / "faces.csv", "train", (48, 64)
    )
    assert train.boxes[0].tolist() == [[1, 2, 30, 40], [5, 5, 20, 20]] and train.classes == [
        "jump",
        "wave",
    ]
    assert torch.allclose(
        train.face_boxes[0], torch.tensor([[15.0, 20, 45, 60], [-30, -30, 12, 12]])
    )
    (tmp_path / "f.csv").write_text("file,x_min,y_min,x_max,y_max\na/1.png,3,4,10,12\n")
    assert (
        prepare_folder.run(
            prepare_folder.main,
            [str(source), str(tmp_path / "given"), "--landmarks", str(tmp_path / "f.csv")],
        )
        == 0
    )
    assert [box_of(row) for row in rows(tmp_path / "given/faces.csv")] == [[3, 4, 10, 12]]


@pytest.mark.parametrize(
    "old, new, word",
    [
        ("b/2.png,test", "../evil.png,test", "'../evil.png'"),
        ("b/2.png,test", "/etc/x.png,test", "/etc/x.png"),
        ("b/2.png,test", "annotations.csv,test", "must be a picture"),
        ("b/2.png,test,wave", "b/2.png,val,wave", "'val'"),
        ("a/1.png,train,jump", "a/1.png,test,jump", "in train and in test"),
        ("30,40", "1,40", "no area"),
        ("30,40", "300,40", "outside"),
        ("30,40", "x,40", "not a finite number"),
        (",action,", ",label,", "lacks the column"),
        ("b/3.png,test,jump", "b/3.png,test,Jump", "has the actions 'Jump' and 'jump'"),
        ("b/3.png,test,jump", "b/3.png,test,run", "no train frame shows the action 'run'"),
    ],
)
def test_own_frames_with_a_wrong_table(tmp_path, capsys, old, new, word):
    assert word in one_sentence(
        capsys, prepare_folder, own(tmp_path / "in", TABLE.replace(old, new)), tmp_path / "out"
    )
    assert not (tmp_path / "out/annotations.csv").exists()


@pytest.mark.parametrize("kind", ["zip", "folder"])
def test_frames_whose_table_lies_deeper_are_not_taken_for_people(tmp_path, capsys, kind):
    """Stills in a folder for each action look like people."""
    files = {f"pack/{n}/{i}.png": frame(60 + n + i) for n in range(8) for i in range(2)}
    source = lay(tmp_path / "in", files | {"pack/annotations.csv": TABLE.encode()})
    if kind == "zip":
        source = shutil.make_archive(str(tmp_path / "in"), "zip", source)
    said = one_sentence(capsys, prepare_folder, source, tmp_path / "out")
    assert "holds pack/annotations.csv, a table of frames, not of faces; unpack it" in said
    assert not (tmp_path / "out").exists()


def test_a_corrected_table_of_frames_goes_on(tmp_path, capsys):
    """A box beyond its picture is found when that is read, which may be after hours."""
    out = tmp_path / "out"
    source = own(tmp_path / "in", TABLE.replace("0,0,64,48", "0,0,640,48"))
    assert "line 4: box (0, 0, 640, 48) lies outside" in one_sentence(
        capsys, prepare_folder, source, out
    )
    own(source)
    assert prepare_folder.run(prepare_folder.main, [str(source), str(out)]) == 0
    assert [box_of(row) for row in rows(out / "annotations.csv")][2] == [0, 0, 64, 48]
    own(source, TABLE.replace("0,0,64,48", "0,0,60,48"))  # of a frame that is in OUT
    _ = capsys.readouterr()
    assert "b/2.png has another split or other boxes" in one_sentence(
        capsys, prepare_folder, source, out
    )


def test_frames_of_another_source_are_refused(tmp_path, capsys):
    source = own(tmp_path / "in")
    out = tmp_path / "out"
    assert prepare_folder.run(prepare_folder.main, [str(source), str(out)]) == 0
    done = snapshot(out)
    _ = capsys.readouterr()
    lay(source, {"a/1.png": frame(90, (80, 60))})
    assert "holds 1 picture that" in one_sentence(capsys, prepare_folder, source, out)
    (source / "a/1.png").unlink()
    assert "such as a/1.png" in one_sentence(capsys, prepare_folder, source, out)
    assert snapshot(out) == done


def test_jhmdb_of_another_source_is_refused(tmp_path, capsys):
    source = jhmdb(tmp_path / "in")
    out = tmp_path / "out"
    assert prepare_jhmdb.run(prepare_jhmdb.main, [str(source), str(out)]) == 0
    done = snapshot(out)
    assert (
        prepare_jhmdb.run(prepare_jhmdb.main, [str(source), str(out)]) == 0
        and snapshot(out) == done
    )
    shutil.rmtree(source / "Rename_Images/wave/Hi_c")
    assert "holds 3 pictures that SOURCE lacks" in one_sentence(capsys, prepare_jhmdb, source, out)


@pytest.mark.parametrize("change", ["splits", "mask", "size"])
def test_jhmdb_of_a_corrected_ground_truth_is_refused(tmp_path, capsys, change):
    """It would keep the old one, and report the new one's counts."""
    source = jhmdb(tmp_path / "in")
    out = tmp_path / "out"
    assert prepare_jhmdb.run(prepare_jhmdb.main, [str(source), str(out)]) == 0
    before = snapshot(out)
    assert prepare_jhmdb.run(prepare_jhmdb.main, [str(source), str(out)]) == 0
    capsys.readouterr()
    clip = "wave/Hi_c"
    if change == "splits":
        path = source / "splits/wave_test_split1.txt"
        path.write_text(path.read_text().replace("Hi_c.avi 1", "Hi_c.avi 2"))
    else:
        mask = mask_of(None)
        mask[7, 10] = 1
        mask = np.pad(mask, ((0, 2), (0, 0), (0, 0))) if change == "size" else mask
        path = source / "puppet_mask" / clip / "puppet_mask.mat"
        path.write_bytes(mat({"part_mask": mask}))
    said = one_sentence(capsys, prepare_jhmdb, source, out)
    assert f"{out}: {clip}/00001.png has another split or other boxes than SOURCE now says" in said
    assert "give another OUT" in said and snapshot(out) == before


@needs_ffmpeg
@pytest.mark.parametrize("change", ["split", "box"])
def test_daly_of_a_corrected_annotation_is_refused(tmp_path, capsys, change):
    source = daly(tmp_path / "in")
    out = tmp_path / "out"
    assert prepare_daly.run(prepare_daly.main, [str(source), str(out)]) == 0
    assert prepare_daly.run(prepare_daly.main, [str(source), str(out)]) == 0
    before = snapshot(out)
    other = daly_annotation()
    if change == "split":
        other["splits"] = [[f"{video}.mp4" for video in VIDEOS]]
    else:
        for video in other["annot"].values():
            for instances in video["annot"].values():
                for keyframe in instances[0]["keyframes"]:
                    keyframe["boundingBox"] = keyframe["boundingBox"] * 0.9
    (source / "daly1.1.0.pkl").write_bytes(py2(other))
    capsys.readouterr()
    said = one_sentence(capsys, prepare_daly, source, out)
    assert "has another split or other boxes than SOURCE now says" in said
    assert snapshot(out) == before


@needs_ffmpeg
def test_daly_of_another_annotation_is_refused_but_movies_may_go(tmp_path, capsys):
    source = daly(tmp_path / "in")
    out = tmp_path / "out"
    assert prepare_daly.run(prepare_daly.main, [str(source), str(out)]) == 0
    shutil.rmtree(source / "videos")  # to save room, once their frames are in OUT
    assert prepare_daly.run(prepare_daly.main, [str(source), str(out)]) == 0
    other = daly_annotation()
    del other["annot"][f"{list(VIDEOS)[1]}.mp4"]
    (source / "daly1.1.0.pkl").write_bytes(py2(other))
    capsys.readouterr()
    assert "such as zzzzzzzzzz1/000030.png" in one_sentence(capsys, prepare_daly, source, out)


def test_the_paper_rule_asks_for_ssh_weights(tmp_path, capsys, monkeypatch):
    import _faces

    from ppad import ssh

    monkeypatch.setattr(_faces, "FaceFinder", ssh.FaceFinder)
    monkeypatch.setenv("PPAD_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(_faces.MTCNN, "load", classmethod(lambda cls: mtcnn.MTCNN()), raising=False)
    monkeypatch.setattr(_faces.MTCNN, "to", lambda self, device: self, raising=False)
    # as where somebody deleted them
    missing = tmp_path / "ssh_light.pt"
    load = ssh.SSH.load
    monkeypatch.setattr(ssh.SSH, "load", classmethod(lambda cls: load(missing)))
    said = one_sentence(capsys, prepare_jhmdb, jhmdb(tmp_path / "in"), tmp_path / "out")
    assert "faces cannot be found" in said and "--landmarks" in said


@pytest.mark.parametrize("rule", ["paper", "ssh", "mtcnn"])
def test_all_of_a_rule_runs_on_the_device(monkeypatch, rule):
    """SSH stayed on the CPU: the paper's rule broke off on every machine with a GPU."""
    import types

    import _faces
    from pretend_gpu import PretendGPU

    from ppad import ssh

    torch.manual_seed(0)
    random = mtcnn.MTCNN()
    monkeypatch.setattr(_faces, "FaceFinder", ssh.FaceFinder)
    monkeypatch.setattr(_faces, "MTCNN", types.SimpleNamespace(load=lambda: copy.deepcopy(random)))
    monkeypatch.setattr(_faces, "check_device", lambda name: None)
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    with PretendGPU() as gpu:
        args = types.SimpleNamespace(device=gpu.device, landmarks=None, rule=rule)
        finder = _faces.Faces(args).finder
        players = [player for player in (finder.mtcnn, finder.ssh) if player is not None]
        assert all(p.device.type == "meta" for one in players for p in one.parameters())
        finder.find([noise])


def test_frames_by_the_papers_rule_portraits_by_mtcnn_unless_told_otherwise():
    """Sec. 4, SSH above 0.8 confirmed by MTCNN, and Sec. 5.1; the name is kept in the journal."""
    import _common
    import _faces

    def found_by(*words, actions):
        return _faces.Faces(_common.arguments("", actions).parse_args(["in", "out", *words])).name

    assert found_by(actions=True) == "paper"
    assert found_by("--rule", "mtcnn", actions=True) == "mtcnn"
    assert found_by(actions=False) == "mtcnn"


@pytest.mark.parametrize("mine", ["annotations.csv", "faces.csv", "a/1.png"])
def test_frames_are_not_written_into_an_out_made_by_hand(tmp_path, capsys, mine):
    out = lay(tmp_path / "out", {mine: b"mine"})
    said = one_sentence(capsys, prepare_folder, own(tmp_path / "in"), out)
    assert f"{out / mine}: is there already" in said
    assert snapshot(out) == {mine: b"mine", ".lock": b""}


# ---------------------------------------------------------------- DALY, damaged


def packets(path):
    """(place, size) in bytes of each packet of a movie."""
    asked = "ffprobe -v error -show_entries packet=pos,size -of csv=p=0".split()
    said = subprocess.run([*asked, str(path)], capture_output=True, text=True, check=True).stdout
    return [(int(pos), int(size)) for size, pos in (line.split(",")[:2] for line in said.split())]


@needs_ffmpeg
def test_daly_a_movie_damaged_in_the_middle_is_left_out(tmp_path, capsys):
    """ffmpeg drops the damaged frames, and every later one would be taken for one further on."""
    source = daly(tmp_path / "in")
    first, second = VIDEOS
    path = source / f"videos/{first}.mp4"
    encode(
        path, [np.full((48, 64, 3), 40 + 5 * n, np.uint8) for n in range(1, 21)], "-c:v", "mjpeg"
    )
    content = bytearray(path.read_bytes())
    for place, size in packets(path)[9:12]:
        content[place : place + size] = bytes(size)
    path.write_bytes(content)
    out = tmp_path / "out"
    assert prepare_daly.run(prepare_daly.main, [str(source), str(out)]) == 0
    assert f"{first}.mp4 has no readable frame 17 (" in capsys.readouterr().err
    assert f"{first}/000017.png" in (out / "left_out_actions.txt").read_text()
    assert {Path(row["file"]).parts[0] for row in rows(out / "annotations.csv")} == {second}


@pytest.mark.parametrize("number", [0, -3])
def test_daly_a_frame_number_below_1_is_refused(tmp_path, number):
    wrong = daly_annotation()
    wrong["annot"]["gone_video1.mp4"]["annot"]["Ironing"] = [instance(keyframe(number, 0, 0, 1, 1))]
    path = lay(tmp_path, {"daly1.1.0.pkl": py2(wrong)}) / "daly1.1.0.pkl"
    with pytest.raises(DataError, match=f"gone_video1.mp4 has .* frameNumber {number}, .*official"):
        prepare_daly.read_annotations(path)


@pytest.mark.parametrize("name", ["fps", "nbframes_ffmpeg"])
@pytest.mark.parametrize("value", [0.0, -25.0, float("nan"), float("inf")])
def test_daly_a_rate_or_length_that_is_none_is_refused(tmp_path, name, value):
    wrong = daly_annotation()
    wrong["metadata"]["gone_video1.mp4"][name] = value
    path = lay(tmp_path, {"daly1.1.0.pkl": py2(wrong)}) / "daly1.1.0.pkl"
    with pytest.raises(DataError, match=f"gone_video1.mp4 has the {name} {value:g}, .*official"):
        prepare_daly.read_annotations(path)


def test_daly_an_endless_frame_number_is_refused(tmp_path):
    wrong = daly_annotation()
    endless = keyframe(1, 0, 0, 1, 1) | {"frameNumber": float("inf")}
    wrong["annot"]["gone_video1.mp4"]["annot"]["Ironing"] = [instance(endless)]
    path = lay(tmp_path, {"daly1.1.0.pkl": py2(wrong)}) / "daly1.1.0.pkl"
    with pytest.raises(DataError, match="is not DALY's annotation"):
        prepare_daly.read_annotations(path)


def test_daly_two_movies_of_one_id_are_refused(tmp_path):
    source = lay(tmp_path / "in", {"videos/a.mp4": b"x", "videos/a.webm": b"y", "b.mkv": b"z"})
    with pytest.raises(DataError, match="a.mp4 and .*a.webm are movies with the same id"):
        prepare_daly.find_movies(source)


# ---------------------------------------------------------------- JHMDB, incomplete


def test_jhmdb_names_frames_that_are_missing_in_a_clip(tmp_path, capsys):
    source = jhmdb(tmp_path / "in")
    for number in (2, 3, 4):  # the third has an empty mask, so nothing is missed there
        (source / f"Rename_Images/wave/Hi_c/{number:05d}.png").unlink()
    assert prepare_jhmdb.run(prepare_jhmdb.main, [str(source), str(tmp_path / "out")]) == 0
    assert "missing: wave/Hi_c: no frame 2, 4\n" in capsys.readouterr().out


def test_jhmdb_two_pictures_of_one_frame_are_refused(tmp_path, capsys):
    source = lay(jhmdb(tmp_path / "in"), {"Rename_Images/wave/Hi_c/1.png": frame(9)})
    said = one_sentence(capsys, prepare_jhmdb, source, tmp_path / "out")
    assert "Hi_c/00001.png and 1.png have the same number; delete one of them" in said


def test_a_table_that_names_no_frame_is_refused(tmp_path, capsys):
    table = tmp_path / "f.csv"
    table.write_text("file,x_min,y_min,x_max,y_max\nframes/a/1.png,3,4,10,12\n")
    source = own(tmp_path / "in")
    said = one_sentence(capsys, prepare_folder, source, tmp_path / "out", "--landmarks", table)
    assert f"{table}: none of its 1 rows is of a picture of SOURCE" in said


def test_a_frame_changed_without_another_size_is_noticed(tmp_path, capsys):
    source = jhmdb(tmp_path / "in")
    out = tmp_path / "out"
    path = source / "Rename_Images/wave/Hi_c/00001.png"
    noise = np.random.default_rng(0).integers(0, 256, (2, *SIZE[::-1], 3), np.uint8)
    for pixels in noise:
        Image.fromarray(pixels).save(path.with_suffix(".bmp"))
        path.unlink(missing_ok=True)
        status = prepare_jhmdb.run(prepare_jhmdb.main, [str(source), str(out)])
        said = capsys.readouterr().err
    assert status == 2 and "such as wave/Hi_c/00001.bmp" in said
