"""What people really give to `python -m ppad.anonymize`, by the whole command.

A right result or one clear sentence, and in no case half an output or a face. A drawn "face" is a
red square, a stub finder knows red, and `mask` leaves none. Readers and writers one by one are in
test_movies, tools that fail half way in test_anonymize; tests/benchmarks/bench_anonymize.py looks
at real clips.
"""

import os
import struct
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from red_square import encode, ffmpeg, find_red, red

from ppad import anonymize, movies
from ppad.repainter import Anonymizer

MASK = ("--method", "mask")


def scene(x=30, size=(72, 96)):
    """A gray-blue frame with a red square whose left edge is x."""
    frame = np.full((*size, 3), (40, 60, 90), np.uint8)
    frame[20:36, x : x + 16] = (255, 0, 0)
    return frame


def walk(n):
    return [scene(10 + 2 * t) for t in range(n)]


@pytest.fixture
def command(monkeypatch, tmp_path):
    """command(words...) -> exit status, in an empty folder, with the stub finder."""
    monkeypatch.setattr(anonymize, "default_finder", lambda *a: find_red)
    monkeypatch.chdir(tmp_path)
    return lambda *words: anonymize.main([*map(str, words), *MASK])


def refused(command, capsys, words, sentence):
    """Status 2, one line that holds `sentence`, and not a file more or less than before."""
    files = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    assert command(*words) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1 and "Traceback" not in error, error
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == files


# ---------------------------------------------------------------- pictures


def test_kinds_of_pixels_by_command(command):
    """16 bits, CMYK, palette, alpha, one bit, 1x1: done, and a face in them is gone."""
    picture = Image.fromarray(scene())
    alpha = Image.fromarray(scene()).convert("RGBA")
    alpha.putalpha(
        Image.fromarray(np.where(np.arange(96) < 60, 255, 0).astype(np.uint8)[None].repeat(72, 0))
    )
    ink = 255 - scene()  # no black: the inverse of RGB
    cmyk = Image.merge(
        "CMYK", [Image.fromarray(c) for c in (*ink.transpose(2, 0, 1), 0 * ink[..., 0])]
    )
    for name, image in (
        ("palette.png", picture.convert("P", palette=Image.Palette.ADAPTIVE)),
        ("palette.gif", picture),
        ("alpha.png", alpha),
        ("alpha.webp", alpha),
        ("cmyk.jpg", cmyk),
        ("cmyk.tif", cmyk),
    ):
        image.save(name)
        before = movies.read_picture(name)
        out = Path(name).with_stem("out_" + Path(name).stem)
        assert red(before).any(), name
        assert command(name, out) == 0
        assert (
            movies.read_picture(out).shape == before.shape
            and not red(movies.read_picture(out)).any()
        ), name
    deep = (np.arange(72 * 96, dtype=np.uint16) * 9).reshape(72, 96)
    Image.fromarray(deep).save("deep.png")
    Image.fromarray(deep > 9999).save("bit.png")
    Image.new("RGB", (1, 1), (1, 2, 3)).save("dot.png")
    for name, expected in (
        ("deep.png", deep / 257),
        ("bit.png", (deep > 9999) * 255),
        ("dot.png", np.array([[[1, 2, 3]]])),
    ):
        assert command(name, "out_" + name) == 0
        got = movies.read_picture("out_" + name).astype(float)
        assert np.abs(got - (expected if expected.ndim == 3 else expected[..., None])).max() <= 1, (
            name
        )


def test_a_name_that_says_something_else(command, capsys):
    """What is in a file counts; a name that the result would not fit is refused."""
    Image.fromarray(scene()).save("really.jpg", "PNG")
    assert command("really.jpg") == 0
    with Image.open("really_anonymized.jpg") as image:
        assert image.format == "JPEG" and not red(np.asarray(image)).any()
    Image.fromarray(scene()).save(
        "moving.jpg", "GIF", save_all=True, append_images=[Image.fromarray(f) for f in walk(3)]
    )
    refused(command, capsys, ("moving.jpg", "b.jpg"), "an animation needs a name that ends in")
    assert command("moving.jpg") == 0  # where the name is ours, it fits
    with Image.open("moving_anonymized.jpg.gif") as image:
        assert image.format == "GIF" and image.n_frames == 4
    Path("words.jpg").write_text("These are words.\n" * 9)
    refused(command, capsys, ("words.jpg",), "words.jpg")
    Path("empty.gif").write_bytes(b"")
    refused(command, capsys, ("empty.gif",), "empty.gif")


def test_a_bomb(command, capsys):
    """A PNG of some dozen bytes that says it has 3.6 thousand million pixels."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    Path("bomb.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + chunk
        + struct.pack(">I", zlib.crc32(chunk))
        + b"\0\0\0\4IDAT1234"
    )
    refused(command, capsys, ("bomb.png",), "exceeds limit of")


def test_a_place_where_nothing_may_be_written(command, capsys, monkeypatch):
    """As a read-only folder answers; root may write everywhere, so no real one is tried."""
    Image.fromarray(scene()).save("a.png")
    write = Path.write_bytes

    def denied(path, data):
        if path.parent.name == "locked":
            raise PermissionError(13, "Permission denied")
        return write(path, data)

    Path("locked").mkdir()
    monkeypatch.setattr(Path, "write_bytes", denied)
    refused(
        command, capsys, ("a.png", "locked/b.png"), "cannot write locked/b.png (Permission denied)"
    )


def test_output_that_is_the_input(command, capsys):
    Image.fromarray(scene()).save("a.png")
    os.link("a.png", "hard.png")
    for words in (
        ("a.png", "a.png"),
        ("a.png", "./a.png"),
        ("a.png", "hard.png"),
        ("a.png", "hard.png", "--overwrite"),
    ):
        refused(command, capsys, words, "is an input")
    if os.name != "nt":
        os.symlink("a.png", "soft.png")
        refused(command, capsys, ("a.png", "soft.png", "--overwrite"), "is an input")
        refused(command, capsys, ("soft.png", "a.png", "--overwrite"), "is an input")


# ---------------------------------------------------------------- animations


@pytest.mark.parametrize("suffix", movies.ANIMATED)
def test_an_animation_with_holes_and_times_of_its_own(command, suffix):
    """Times are kept; transparent parts become white; no face is left under them or in a frame."""
    frames = []
    times = [40, 120, 80, 250]
    for number, frame in enumerate(walk(4)):
        alpha = np.full(frame.shape[:2], 255, np.uint8)
        alpha[50:, 60 + number :] = 0  # a hole, below the face
        frames.append(Image.fromarray(np.dstack([frame, alpha])))
    frames[0].save(
        f"a{suffix}",
        save_all=True,
        append_images=frames[1:],
        duration=times,
        loop=2,
        lossless=True,
        **{"disposal": 2} if suffix == ".gif" else {},
    )
    assert command(f"a{suffix}", f"b{suffix}") == 0
    got, got_times, loop = movies.read_animation(f"b{suffix}")
    got = list(got)
    assert list(map(int, got_times)) == times and len(got) == 4
    assert loop == (None if suffix == ".avif" else 2)  # Pillow's AVIF keeps no number of loops
    for frame in got:
        assert not red(frame).any() and frame[55:, 70:].min() > 245
        assert np.abs(frame[60:, :50].astype(int) - (40, 60, 90)).max() < 12
    with Image.open(f"b{suffix}") as image:  # opaque: nothing can lie under what one sees
        image.seek(2)
        assert image.convert("RGBA").getchannel("A").getextrema() == (255, 255)


# ---------------------------------------------------------------- movies


def write_movie(path, frames):
    encode(path, frames, "-c:v", "ffv1")


@ffmpeg
def test_movies_of_odd_kinds(command, capsys, monkeypatch):
    """1x1 px, cut off, a name of a picture, and without ffmpeg."""
    write_movie("dot.mkv", [np.full((1, 1, 3), 90, np.uint8)] * 3)
    assert command("dot.mkv", "dot_out.mkv") == 0 and movies.probe("dot_out.mkv").count == 3
    write_movie("a.mkv", walk(30))
    Path("cut.mkv").write_bytes(Path("a.mkv").read_bytes()[:-2000])
    Path("dot_out.mkv").unlink()
    capsys.readouterr()
    files = sorted(os.listdir())
    # what is missing is either complained of or simply not there
    assert command("cut.mkv", "cut_out.mkv") in (0, 2)
    if sorted(os.listdir()) != files:
        assert not any(
            red(frame).any()
            for frame in movies.read_movie("cut_out.mkv", movies.probe("cut_out.mkv"))
        )
        Path("cut_out.mkv").unlink()
    capsys.readouterr()
    Path("a.mkv").rename("film.jpg")
    refused(command, capsys, ("film.jpg", "new.jpg"), "a movie needs a name that ends in")
    assert command("film.jpg") == 0 and movies.kind("film_anonymized.jpg.mp4") == "movie"
    Path("film.jpg").rename("a.mkv")
    capsys.readouterr()  # on a busy machine, progress
    monkeypatch.setenv("PATH", os.getcwd())
    refused(command, capsys, ("a.mkv",), "ffmpeg is not on the PATH")


@ffmpeg
def test_a_second_video_stream_is_said_to_be_left_out(command, capsys):
    encode("b.mkv", walk(5), "-map", "0", "-map", "0", "-c:v", "ffv1")
    assert command("b.mkv", "b_out.mkv", "--sound", "drop") == 1
    assert "left out: all but the first of 2 video streams" in capsys.readouterr().out
    assert movies.probe("b_out.mkv").streams == 1


@ffmpeg
def test_movies_in_a_folder_whose_suffix_is_also_that_of_sound(command, capsys):
    os.mkdir("in")
    for name in ("a.ogg", "b.3gpp", "c.mxf"):
        encode(f"in/{name}", walk(3), "-c:v", "ffv1", "-f", "matroska")
    Path("in/d.mp3").write_bytes(b"ID3 and sound")
    assert command("in", "out") == 0
    printed = capsys.readouterr()
    assert "3 done" in printed.out and "left out: in/d.mp3" in printed.err
    assert sorted(os.listdir("out")) == ["a.ogg.mp4", "b.3gpp.mp4", "c.mxf.mp4"]


# ---------------------------------------------------------------- many at once


def test_batches_searched_side_by_side_come_in_order():
    """Three workers, the first to begin ends last: frames as one by one, none read too early."""
    frames = [*walk(38), scene(80)]
    for number, frame in enumerate(frames):
        frame[-1, 0] = (1, 2, number)  # a mark, far from the face
    read = []
    busy = set()
    most = []

    def slow(batch):
        busy.add(threading.get_ident())
        most.append(len(busy))
        time.sleep(0.05 if batch[0][-1, 0, 2] % 16 == 0 else 0.01)
        busy.discard(threading.get_ident())
        return find_red(batch)

    person = Anonymizer.from_method("mask", finder=slow, workers=3)
    alone = Anonymizer.from_method("mask", finder=find_red)
    after = list(person.frames(read.append(0) or frame for frame in frames))
    assert max(most) > 1 and len(after) == len(frames)
    for one, other in zip(after, alone.frames(frames)):
        np.testing.assert_array_equal(one, other)
    read.clear()
    next(person.frames(read.append(0) or frame for frame in frames * 9))
    assert len(read) <= 1 + person.steady.delay + 4 * 8  # workers + 1 batches of 8


def test_threads_are_as_before_though_a_run_fails(command, monkeypatch):
    def out_of_memory(frames):
        raise MemoryError

    before = torch.get_num_threads()
    Image.fromarray(scene()).save(
        "a.gif", save_all=True, append_images=[Image.fromarray(f) for f in walk(20)]
    )
    try:
        torch.set_num_threads(2)
        assert command("a.gif", "b.gif") == 0 and torch.get_num_threads() == 2
        monkeypatch.setattr(anonymize, "default_finder", lambda *a: out_of_memory)
        assert (
            command("a.gif", "c.gif") == 2
            and torch.get_num_threads() == 2
            and not list(Path().glob("*c.gif*"))
        )
    finally:
        torch.set_num_threads(before)
