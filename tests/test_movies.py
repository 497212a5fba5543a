"""Files in and out: pixels, sound and nothing else. Oracles: arrays known beforehand, Pillow, and
ffmpeg's own report.
"""

import dataclasses
import io
import json
import os
import re
import shutil
import struct
import subprocess
import zlib
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageCms, TiffImagePlugin

from ppad import ffmpeg as ffmpeg_module
from ppad import movies
from ppad.ffmpeg import Movie, decode, list_packets, sound_tracks
from ppad.files import WriteError, to_rgb

ffmpeg = pytest.mark.skipif(
    not (shutil.which("ffmpeg") and shutil.which("ffprobe")),
    reason="ffmpeg and ffprobe are not on the PATH: install ffmpeg to test movies",
)


def sample(height=24, width=40, seed=0):
    """A smooth picture, so that JPEG and H.264 hardly change it."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 5, y * 8, (x + y + seed * 20) * 2], 2).clip(0, 255).astype(np.uint8)


H264 = ("-c:v", "libx264", "-preset", "ultrafast")


def make(*words):
    subprocess.run(["ffmpeg", "-v", "error", "-y", *map(str, words)], check=True)


def lavfi(text):
    return "-f", "lavfi", "-i", text


def report(path):
    words = "ffprobe -v error -show_streams -show_format -show_chapters -of json".split()
    answer = subprocess.run([*words, path], capture_output=True, text=True, check=True)
    return json.loads(answer.stdout)


def read(path, **settings):
    return list(movies.read_movie(path, movies.probe(path), **settings))


def rewrite(source, out):
    """Read a movie and write it, with its sound; the streams of what was written."""
    movie = movies.probe(source)
    tracks, _ = sound_tracks(source)
    movies.save_movie(out, movies.read_movie(source, movie), movie, source, tracks)
    return report(out)["streams"]


# ---------------------------------------------------------------- pictures


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_and_metadata_dropped(tmp_path, orientation):
    upright = sample()
    image = Image.fromarray(upright)
    stored = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "SecretCamera"
    exif.get_ifd(0x8825)[1] = "N"  # GPS
    image = image.transpose(stored[orientation]) if orientation > 1 else image
    image.save(tmp_path / "in.png", exif=exif)
    np.testing.assert_array_equal(movies.read_picture(tmp_path / "in.png"), upright)


def jpeg_with_everything(path):
    """A JPEG with EXIF, GPS, an embedded thumbnail, XMP and a comment, each with a word to look
    for.
    """
    small = io.BytesIO()
    Image.fromarray(sample(8, 8)).save(small, "JPEG", comment=b"ThumbSecret")
    exif = Image.Exif()
    exif[0x010F] = "SecretCamera"
    exif[0x8825] = {0x1D: "SecretPlace"}  # GPS date stamp, a text field
    Image.fromarray(sample()).save(
        path, "JPEG", exif=exif.tobytes() + small.getvalue(), comment=b"SecretComment", quality=95
    )
    data = path.read_bytes()
    xmp = b"http://ns.adobe.com/xap/1.0/\0<x>SecretXMP</x>"
    path.write_bytes(
        data[:2] + b"\xff\xe1" + struct.pack(">H", len(xmp) + 2) + xmp + data[2:] + b"SecretTrailer"
    )


@pytest.mark.parametrize("suffix", movies.FORMATS)
def test_nothing_but_pixels_is_left(tmp_path, suffix):
    path = tmp_path / "in.jpg"
    out = tmp_path / f"out{suffix}"
    jpeg_with_everything(path)
    assert path.read_bytes().count(b"Secret") == 6
    movies.save_picture(out, movies.read_picture(path))
    assert b"Secret" not in out.read_bytes()
    with Image.open(out) as image:
        assert not {0x010F, 0x0112, 0x8825} & set(image.getexif())  # camera, orientation, GPS
        assert not {"exif", "icc_profile", "xmp", "comment"} & set(image.info)
        if suffix != ".gif":  # 256 colors
            assert np.abs(np.asarray(image.convert("RGB")).astype(int) - sample()).mean() < 3


def test_kinds_of_pixels(tmp_path):
    """16 bits, CMYK, palette, alpha and one bit: to the right 8-bit RGB."""
    gray = np.arange(256, dtype=np.uint16).reshape(16, 16)
    cases = {
        "deep.png": (Image.fromarray(gray * 257), gray),
        "one.png": (
            Image.fromarray((gray > 99).astype(np.uint8) * 255).convert("1"),
            (gray > 99) * 255,
        ),
        "cmyk.tif": (Image.new("CMYK", (16, 16), (0, 255, 255, 0)), [255, 0, 0]),
        "palette.png": (
            Image.new("RGB", (16, 16), (9, 80, 200)).convert("P", palette=Image.Palette.ADAPTIVE),
            [9, 80, 200],
        ),
        "alpha.png": (Image.new("RGBA", (16, 16), (255, 0, 0, 0)), [255, 255, 255]),
        "half.png": (Image.new("LA", (16, 16), (0, 128)), [127, 127, 127]),
        "dot.png": (Image.new("RGB", (1, 1), (1, 2, 3)), [1, 2, 3]),
    }
    for name, (image, expected) in cases.items():
        image.save(tmp_path / name)
        got = movies.read_picture(tmp_path / name)
        expected = np.asarray(expected)
        expected = expected[..., None] if expected.ndim == 2 else expected
        assert got.dtype == np.uint8 and got.shape == (image.height, image.width, 3), name
        assert np.abs(got.astype(int) - expected).max() <= 1, name


def test_a_color_profile_is_applied():
    """A profile that is sRGB changes nothing; another (here: Lab's, which does not fit RGB) is left
    out without a crash.
    """
    image = Image.fromarray(sample())
    for profile, tolerance in (
        (ImageCms.createProfile("sRGB"), 1),
        (ImageCms.createProfile("LAB"), 0),
    ):
        image.info["icc_profile"] = ImageCms.ImageCmsProfile(profile).tobytes()
        assert np.abs(np.asarray(to_rgb(image)).astype(int) - sample()).max() <= tolerance


def test_what_cannot_be_a_picture_is_refused(tmp_path):
    with pytest.raises(ValueError, match="8 or 16 bits"):
        to_rgb(Image.fromarray(np.ones((4, 4), np.float32)))
    with pytest.raises(ValueError, match="8 or 16 bits"):
        to_rgb(Image.fromarray(np.full((4, 4), 1 << 20, np.int32)))
    Image.fromarray(sample(200, 200)).save(tmp_path / "whole.jpg")
    data = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(data[: len(data) // 2])
    (tmp_path / "empty.jpg").write_bytes(b"")
    header = struct.pack(
        ">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0
    )  # a PNG that says it has 3.6 thousand million pixels
    chunk = b"IHDR" + header
    bomb = (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + chunk
        + struct.pack(">I", zlib.crc32(chunk))
        + b"\0\0\0\4IDAT1234"
    )
    (tmp_path / "bomb.png").write_bytes(bomb)
    for work, name, words in (
        (movies.read_picture, "half.jpg", "truncated"),
        (movies.kind, "empty.jpg", "no picture and no movie|no picture: install"),
        (movies.kind, "bomb.png", "exceeds limit of .* pixels"),
        (movies.kind, "none.jpg", "not there"),
    ):
        with pytest.raises(ValueError, match=words):
            work(tmp_path / name)
    low = Image.fromarray(np.full((8, 8), 200, np.int32))  # of 32 bits, black were they 16
    low.save(tmp_path / "low.tif")
    with pytest.raises(ValueError, match="low.tif .*8 or 16 bits"):
        movies.read_picture(tmp_path / "low.tif")


def two_pages():
    """A TIFF of two pages as a bytearray, where the second page's place is, and that place."""
    file = io.BytesIO()
    picture = Image.fromarray(sample())
    picture.save(file, "TIFF", save_all=True, append_images=[picture])
    data = bytearray(file.getvalue())
    first = struct.unpack("<I", data[4:8])[0]
    link = first + 2 + 12 * struct.unpack("<H", data[first : first + 2])[0]
    return data, link, struct.unpack("<I", data[link : link + 4])[0]


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data", "ignore:Tag data larger than file")
@pytest.mark.parametrize("how", ["whole", "cut", "beyond", "nonsense", "unknown pixels"])
def test_a_damaged_further_page_does_not_condemn_the_first(tmp_path, how):
    data, link, second = two_pages()
    places = {"cut": len(data) - 3, "beyond": len(data) + 5000, "nonsense": 10}
    data[link : link + 4] = struct.pack("<I", places.get(how, second))
    if how == "unknown pixels":  # tag 262, its color, becomes that of a camera's sensor
        tags = [data[i : i + 2] for i in range(second + 2, len(data) - 12, 12)]
        place = second + 2 + 12 * tags.index(struct.pack("<H", 262))
        data[place + 8 : place + 10] = struct.pack("<H", 32803)
    path = tmp_path / "a.tif"
    path.write_bytes(data)
    np.testing.assert_array_equal(movies.read_picture(path), sample())
    left_out = movies.pages_left_out(path)
    assert left_out == "pages 2 to 2" if how == "whole" else "page" in left_out


def test_the_second_picture_of_an_mpo_is_told(tmp_path):
    picture = Image.fromarray(sample())
    for name, left_out in (("a.mpo", "pages 2 to 2"), ("a.jpg", "")):  # there: a preview
        picture.save(tmp_path / name, "MPO", save_all=True, append_images=[picture])
        assert movies.pages_left_out(tmp_path / name) == left_out
    assert movies.kind(tmp_path / "a.mpo") == "picture"
    picture.save(tmp_path / "b.mpo", "JPEG")
    assert movies.pages_left_out(tmp_path / "b.mpo") == ""


@pytest.mark.parametrize(
    "name, tags, raw",
    [
        ("a.dng", {50706: b"\1\4\0\0"}, True),
        ("a.tif", {254: 1}, True),  # the first page is a reduced copy
        ("a.tif", {50706: b"\1\4\0\0"}, True),
        ("a.xyz", {330: 8}, True),  # there are further pictures within
        ("a.xyz", {}, False),
        ("scan", {}, False),
        ("a.nef", {}, True),
        ("a.tif", {330: 8}, False),  # also Photoshop's
        ("a.tiff", {254: 2}, False),
        ("a.tif", {}, False),
    ],
)
def test_a_raw_photo_is_not_taken_for_its_small_copy(tmp_path, name, tags, raw):
    entries = TiffImagePlugin.ImageFileDirectory_v2()
    for number, value in tags.items():
        entries.tagtype[number] = 1 if isinstance(value, bytes) else 4
        entries[number] = value
    path = tmp_path / name
    Image.fromarray(sample()).save(path, "TIFF", tiffinfo=entries)
    if raw:
        with pytest.raises(ValueError, match=f"{name} is a raw photo"):
            movies.kind(path)
        assert movies.may_be_media(path)
    else:
        assert movies.kind(path) == "picture"


def test_what_may_be_media_by_its_name(tmp_path):
    for name in ("a.heic", "b", "c.jp2", "d.nef", "e.mp4", "f.ts", "g.unknown"):
        assert movies.may_be_media(tmp_path / name), name
    for name in (".DS_Store", "a.AAE", "a.txt", "a.json", "a.mp3", "a.pdf", "Thumbs.db"):
        assert not movies.may_be_media(tmp_path / name), name


def test_kind_goes_by_content(tmp_path):
    Image.fromarray(sample()).save(tmp_path / "really_a_png.jpg", "PNG")
    Image.fromarray(sample()).save(
        tmp_path / "moving.gif", save_all=True, append_images=[Image.fromarray(sample(seed=5))]
    )
    assert movies.kind(tmp_path / "really_a_png.jpg") == "picture"
    assert movies.kind(tmp_path / "moving.gif") == "animation"


@ffmpeg
@pytest.mark.parametrize("suffix", movies.JPEG_STREAMS)
def test_jpegs_in_a_row_are_a_movie(tmp_path, suffix):
    """What a webcam's program writes; a reader of pictures would show the first one only."""
    path = tmp_path / f"a{suffix}"
    with open(path, "wb") as file:
        for i in range(3):
            Image.fromarray(sample(seed=i)).save(file, "JPEG")
    assert movies.kind(path) == "movie"
    assert len(list(movies.read_movie(path, movies.probe(path)))) == 3
    assert movies.written_name(path, "movie").name == f"a{suffix}.mp4"


@pytest.mark.parametrize("suffix", movies.ANIMATED)
def test_animation_keeps_frames_times_and_loops(tmp_path, suffix):
    frames = [sample(seed=i) for i in range(4)]
    times = [40, 80, 120, 200]
    movies.save_animation(tmp_path / f"a{suffix}", iter(frames), times, 3)
    got, got_times, loop = movies.read_animation(tmp_path / f"a{suffix}")
    got = list(got)
    assert list(map(round, got_times)) == times and len(got) == 4
    assert loop == (None if suffix == ".avif" else 3)  # AVIF has none
    for a, b in zip(got, frames):
        assert np.abs(a.astype(int) - b).mean() < 8  # GIF has 256 colors


@pytest.mark.parametrize("kind", ["picture", "animation"])
def test_an_apng_keeps_its_name(tmp_path, kind):
    assert movies.written_name(tmp_path / "a.apng", kind).name == "a.apng"


def test_a_picture_beside_an_animation_is_left_out(tmp_path):
    """A PNG can hold one for programs that show no animation; others never show it."""
    path = tmp_path / "a.png"
    frames = [Image.fromarray(sample(seed=i)) for i in range(3)]
    hidden = Image.new("RGB", frames[0].size, "red")
    hidden.save(path, save_all=True, append_images=frames, default_image=True, duration=70)
    assert movies.kind(path) == "animation"
    got, times, _ = movies.read_animation(path)
    assert times == [70] * 3
    for frame, known in zip(got, frames, strict=True):
        np.testing.assert_array_equal(frame, known)


@ffmpeg
@pytest.mark.skipif(".avif" not in movies.FORMATS, reason="this Pillow reads no AVIF")
@pytest.mark.parametrize("how", ["truncated", "not read by Pillow", "one frame"])
def test_an_avif_is_not_taken_for_a_movie(tmp_path, monkeypatch, how):
    path = tmp_path / "a.avif"
    frames = [Image.fromarray(sample(seed=seed)) for seed in range(4)]
    more = [] if how == "one frame" else frames[1:]
    frames[0].save(path, save_all=True, append_images=more)
    assert movies.kind(path) == ("animation" if more else "picture")
    if how == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        monkeypatch.setattr(movies, "DECODED", ["PNG"])
    with pytest.raises(ValueError, match="holds no picture and no movie"):
        movies.kind(path)


def test_an_animation_that_stands_still_too_long_for_its_format(tmp_path):
    """A GIF can say 655.35 s, and equal neighbors become one picture in it."""
    frames = [sample()] * 12 + [sample(seed=1)]
    with pytest.raises(ValueError, match="a.gif: .* longer than a GIF can store: .*another suffix"):
        movies.save_animation(tmp_path / "a.gif", iter(frames), [60000] * 13, 0)
    assert list(tmp_path.iterdir()) == []
    movies.save_animation(tmp_path / "a.webp", iter(frames), [60000] * 13, 0)
    assert sum(movies.read_animation(tmp_path / "a.webp")[1]) == 13 * 60000


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".gif"])
def test_a_picture_too_long_for_its_format_is_refused(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    frame = np.zeros((2, 66000, 3), np.uint8)
    with pytest.raises(ValueError, match=f"a{suffix}: .* px long, this is 66000"):
        movies.save_picture(path, frame)
    if suffix in movies.ANIMATED:
        with pytest.raises(ValueError, match="px long"):
            movies.save_animation(path, [frame] * 2, [70] * 2, 0)
    assert not list(tmp_path.iterdir())


def test_a_truncated_animation_is_refused(tmp_path):
    movies.save_animation(tmp_path / "a.gif", [sample(100, 100, i) for i in range(5)], [100] * 5, 0)
    data = (tmp_path / "a.gif").read_bytes()
    (tmp_path / "a.gif").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="cannot be read"):
        list(movies.read_animation(tmp_path / "a.gif")[0])


def test_output_appears_only_when_complete(tmp_path, monkeypatch):
    out = tmp_path / "out.png"

    def half(image, path, **settings):
        path.write_bytes(b"half")
        assert not out.exists()
        raise KeyError

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", half)
        with pytest.raises(KeyError):
            movies.save_picture(out, sample())
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_bytes(b"")
    for place in (tmp_path / "file" / "out.png", tmp_path / "file" / "deeper" / "out.png"):
        with pytest.raises(WriteError, match="cannot write"):
            movies.save_picture(place, sample())
    with pytest.raises(ValueError, match="name that ends in"):
        movies.save_picture(tmp_path / "out.doc", sample())


def test_without_ffmpeg_there_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "a.mp4").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match="ffmpeg is not on the PATH"):
        movies.kind(tmp_path / "a.mp4")


# ---------------------------------------------------------------- movies


@ffmpeg
def test_frames_and_colors_survive(tmp_path):
    """Smooth frames through writer and reader: all there, in order, hardly changed; odd sizes are
    padded by one.
    """
    frames = [sample(47, 63, i) for i in range(20)]
    rate = Fraction(30000, 1001)
    movies.save_movie(tmp_path / "a.mp4", frames, Movie(rate, None, "auto"))
    movie = movies.probe(tmp_path / "a.mp4")
    assert movie.rate == rate and movie.count == 20
    assert ffmpeg_module.movie_fault(tmp_path / "a.mp4", 20, 0) == ""
    assert "plays 20 of 21 frames" in ffmpeg_module.movie_fault(tmp_path / "a.mp4", 21, 0)
    got = list(movies.read_movie(tmp_path / "a.mp4", movie))
    assert len(got) == 20 and got[0].shape == (48, 64, 3)
    for a, b in zip(got, frames):
        assert np.abs(a[:47, :63].astype(int) - b).mean() < 4


@pytest.fixture(scope="module")
def talkative(tmp_path_factory):
    """A movie with everything in it that may not be passed on, and a flash with a beep."""
    folder = tmp_path_factory.mktemp("talkative")
    (folder / "note.txt").write_text("SecretNote")
    (folder / "subs.srt").write_text("1\n00:00:00,100 --> 00:00:01,000\nSecretWords\n")
    (folder / "tags.txt").write_text(
        ";FFMETADATA1\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=500\ntitle=SecretChapter\n"
    )
    source = folder / "in.mkv"
    make(
        *lavfi("color=black:s=64x48:r=25:d=1.2,drawbox=c=white:t=fill:enable='gte(t,0.52)'"),
        *lavfi("sine=f=1000:r=48000:d=1.2,volume='gte(t,0.52)':eval=frame"),
        *("-i", folder / "subs.srt", "-i", folder / "tags.txt"),
        *"-map 0 -map 1 -map 2 -map_metadata 3 -metadata title=SecretTitle".split(),
        *"-metadata location=SecretPlace -metadata:s:a:0 title=SecretVoice".split(),
        *("-metadata:s:v:0", "title=SecretCamera", "-attach", folder / "note.txt"),
        *("-metadata:s:t", "mimetype=text/plain", *H264, "-g", 5, "-c:a", "pcm_s16le", source),
    )
    assert source.read_bytes().count(b"Secret") >= 7
    return source


@ffmpeg
@pytest.mark.parametrize("suffix", movies.MOVIES)
def test_sound_is_in_sync_and_nothing_else_is_left(tmp_path, talkative, suffix):
    """A flash and a beep begin together after half a second; title, place, chapter, subtitles,
    cover and attachment are lost.
    """
    out = tmp_path / f"out{suffix}"
    rewrite(talkative, out)
    assert b"Secret" not in out.read_bytes()
    found = report(out)
    assert sorted(stream["codec_type"] for stream in found["streams"]) == ["audio", "video"]
    assert not found["chapters"] and abs(float(found["format"]["duration"]) - 1.2) < 0.1
    tags = {
        key.lower() for part in (*found["streams"], found["format"]) for key in part.get("tags", {})
    }
    assert tags <= set(
        "language handler_name vendor_id encoder duration major_brand minor_version "
        "compatible_brands".split()
    )

    flash, beep = flash_and_beep(out)
    assert abs(flash - beep) < 0.04


def flash_and_beep(path):
    """Seconds at which a movie turns white and at which it is heard first, by its own time 0."""

    def decoded(*words):  # gaps filled
        return subprocess.run(
            ["ffmpeg", "-v", "error", "-i", path, *words, "-"], capture_output=True, check=True
        ).stdout

    gray = decoded("-vf", "fps=100:start_time=0,scale=1:1", "-f", "rawvideo", "-pix_fmt", "gray")
    bright = np.frombuffer(gray, np.uint8) > 128
    sound = "-af aresample=async=1:first_pts=0 -ac 1 -ar 48000 -f s16le".split()
    loud = np.abs(np.frombuffer(decoded(*sound), np.int16).astype(int)) > 1000
    assert bright.any() and loud.any()
    return bright.argmax() / 100, loud.argmax() / 48000


@ffmpeg
@pytest.mark.parametrize("suffix", [".ts", ".mpg", ".mkv", ".mp4"])
@pytest.mark.parametrize("late", ["picture", "sound"])
def test_picture_and_sound_that_do_not_begin_together_stay_in_step(tmp_path, suffix, late):
    """Of .ts and .mpg ffmpeg counts time from the first of the streams that a command uses."""
    codecs = ("-c:v", "mpeg2video", "-c:a", "mp2")
    whole = tmp_path / "whole.mkv"
    make(
        *lavfi("color=black:s=64x48:r=25:d=3,drawbox=c=white:t=fill:enable='gte(t,2)'"),
        *lavfi("sine=f=1000:r=48000:d=3,volume='gte(t,2)':eval=frame"),
        *(*codecs, whole),
    )
    source = tmp_path / f"late{suffix}"
    trim = {"picture": "[0:v]trim=start=1.2[v]", "sound": "[0:a]atrim=start=1.2[a]"}[late]
    kept = {"picture": ["[v]", "0:a"], "sound": ["0:v", "[a]"]}[late]
    make(
        *("-i", whole, "-filter_complex", trim, "-map", kept[0], "-map", kept[1]),
        *("-fps_mode", "passthrough", *codecs, source),
    )
    out = tmp_path / "out.mp4"
    rewrite(source, out)
    flash, beep = flash_and_beep(out)
    assert abs(flash - beep) < 0.05 and flash > 1.9


@ffmpeg
@pytest.mark.parametrize("rate", [25, 30])
def test_a_picture_that_is_late_by_half_a_frame_keeps_all_frames(tmp_path, rate):
    path = tmp_path / "b.mkv"  # of whole milliseconds, so that frames of 1/30 s tremble
    make(*lavfi(f"testsrc2=s=64x48:r={rate}:d=2"), *H264, tmp_path / "a.mkv")
    late = ("-itsoffset", 0.5 / rate, "-i", tmp_path / "a.mkv")
    make(*TONE, *late, "-c:v", "copy", "-c:a", "flac", path)
    lost = []
    assert len(read(path, lost=lost)) - 2 * rate in (0, 1) and not lost


@ffmpeg
def test_after_damage_a_late_picture_goes_on_where_it_was(tmp_path):
    late = tmp_path / "late.ts"
    make(
        *lavfi("testsrc2=s=128x96:r=25:d=6"),
        *lavfi("sine=d=6"),
        *("-filter_complex", "[0:v]trim=start=2[v]", "-map", "[v]", "-map", "1:a"),
        *("-fps_mode", "passthrough", *H264, "-g", 12, "-c:a", "mp2", late),
    )
    whole = read(late)
    spoilt = bytearray(late.read_bytes())
    middle = len(spoilt) // 188 * 2 // 3
    for packet in range(middle, middle + 12):
        spoilt[188 * packet + 4 : 188 * packet + 184] = bytes(180)
    late.write_bytes(spoilt)
    covered = []
    frames = read(late, stop=False, covered=covered)
    assert len(frames) == len(whole) and 0 < len(covered) < 40
    for number in (len(whole) // 3, len(whole) - 3):
        np.testing.assert_array_equal(frames[number], whole[number])


@ffmpeg
def test_late_picture_rotation_and_oblong_pixels(tmp_path):
    """Turned by its display matrix, pixels twice as wide as high: the reader gives upright square
    ones.
    """
    wide = tmp_path / "wide.mp4"
    make(*lavfi("testsrc2=s=64x48:r=10:d=1"), "-vf", "setsar=2", *H264, wide)
    make("-i", wide, "-c", "copy", "-metadata:s:v:0", "rotate=90", tmp_path / "turned.mp4")
    for name, shapes in (
        ("wide.mp4", {(48, 128, 3)}),
        ("turned.mp4", {(128, 48, 3), (48, 128, 3)}),
    ):  # newer ffmpeg: no such tag
        frames = read(tmp_path / name)
        assert len(frames) == 10 and {frame.shape for frame in frames} <= shapes


@ffmpeg
def test_a_movie_that_changes_its_size_keeps_all_frames(tmp_path):
    """As recorded calls and broadcasts do; they come in the first one's size, also turned."""
    for size, start in (("64x48", 0), ("96x80", 1)):
        part = tmp_path / f"{size}.ts"
        gray = f"nullsrc=s={size}:r=10:d=1,geq=lum=40+16*N:cb=128:cr=128"
        make(*lavfi(gray), "-output_ts_offset", start, *H264, part)
    (tmp_path / "parts").write_text("file 64x48.ts\nfile 96x80.ts\n")
    path = tmp_path / "both.mp4"
    make("-f", "concat", "-i", tmp_path / "parts", "-c", "copy", path)
    alone = read(tmp_path / "64x48.ts")
    frames = read(path)
    assert len(frames) == 20 and {frame.shape for frame in frames} == {(48, 64, 3)}
    for frame, known in zip(frames, [*alone, *alone]):
        assert np.abs(frame.astype(int) - known).max() < 8
    turned = tmp_path / "turned.mp4"
    make("-i", path, "-c", "copy", "-metadata:s:v:0", "rotate=90", turned)
    if movies.probe(turned).filters:  # newer ffmpeg: no such tag
        for frame, known in zip(read(turned), frames, strict=True):
            assert frame.shape == (64, 48, 3)
            assert np.abs(frame.astype(int) - np.rot90(known, -1)).max() < 8


@ffmpeg
def test_after_damage_a_movie_that_has_changed_its_size_goes_on_in_the_first_one(tmp_path):
    parts = []
    for size, start in (("320x240", 0), ("480x400", 3)):
        part = tmp_path / f"{size}.ts"
        late = ("-output_ts_offset", start, "-g", 10)
        make(*lavfi(f"testsrc2=s={size}:r=10:d=3"), *late, *H264, part)
        parts.append(bytearray(part.read_bytes()))
    packet = len(parts[0]) // 188 * 2 // 3
    parts[0][188 * packet + 4 : 188 * packet + 184] = bytes(180)
    path = tmp_path / "both.ts"
    path.write_bytes(b"".join(parts))
    covered = []
    frames = read(path, covered=covered, stop=False)
    assert 0 < len(covered) <= 20 and {frame.shape for frame in frames} == {(240, 320, 3)}
    assert all(frame.any() for frame in frames[31:]) and len(frames) in (60, 61)


@ffmpeg
def test_a_damaged_movie_stops_or_is_covered(tmp_path):
    path = tmp_path / "a.mp4"
    make(*lavfi("testsrc2=s=128x96:r=25:d=2.4"), *H264, "-g", 10, path)
    whole = path.read_bytes()
    undamaged = read(path)
    data = bytearray(whole)
    start = data.find(b"mdat") + 4
    middle = start + (len(data) - start) // 2
    data[middle : middle + 3000] = np.random.default_rng(0).bytes(3000)
    path.write_bytes(data)
    with pytest.raises(ValueError, match="cannot be decoded at about frame"):
        read(path)
    covered = []
    frames = read(path, covered=covered, stop=False)
    assert len(frames) == 60 and covered == list(range(covered[0], covered[-1] + 1))
    assert covered[0] > 18 and covered[-1] % 10 == 9 and len(covered) <= 30  # up to a keyframe
    for number, (frame, original) in enumerate(zip(frames, undamaged)):
        np.testing.assert_array_equal(frame, 0 if number in covered else original)
    path.write_bytes(whole[:4000])  # its index was at the end
    with pytest.raises(ValueError, match="no picture and no movie"):
        movies.kind(path)


@ffmpeg
def test_files_without_frames_are_refused(tmp_path):
    make(*lavfi("sine=d=1"), tmp_path / "sound.wav")
    (tmp_path / "words.txt").write_text("These are words, and no movie.\n" * 20)
    (tmp_path / "list.txt").write_text("ffconcat version 1.0\nfile 'sound.wav'\n")
    for name in ("sound.wav", "words.txt", "list.txt"):
        with pytest.raises(ValueError, match="no picture and no movie"):
            movies.kind(tmp_path / name)
    none = tmp_path / "none.mkv"
    make(*lavfi("testsrc2=s=64x48"), "-frames:v", 0, *H264, "-f", "matroska", none)
    with pytest.raises(ValueError, match="none.mkv (holds|has)"):
        read(none)


@ffmpeg
def test_frames_too_large_to_open_safely(tmp_path):
    path = tmp_path / "a.mov"
    make(*lavfi("color=s=16384x4112"), "-frames:v", 1, "-c:v", "png", path)
    with pytest.raises(ValueError, match="16384 x 4112 px.*: make it smaller first"):
        movies.probe(path)


@ffmpeg
def test_a_list_of_other_files_is_no_movie(tmp_path):
    """Whoever made it could choose any file of this disk to be published."""
    make(*MOVING, "-c:v", "mpeg2video", tmp_path / "private.ts")
    lists = {
        "a.mp4": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1,\n{tmp_path}/private.ts\n",
        "b.mp4": "ffconcat version 1.0\nfile private.ts\n",
    }
    for name, text in lists.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=f"{name} holds no .*movie"):
            movies.kind(tmp_path / name)


@ffmpeg
def test_a_writer_that_fails_leaves_nothing(tmp_path):
    movie = Movie(Fraction(25), None, "auto")
    out = tmp_path / "a.mp4"
    absent = tmp_path / "not_there.mkv"

    def broken():
        yield sample()
        raise KeyError

    with pytest.raises(KeyError):
        movies.save_movie(out, broken(), movie)
    with pytest.raises(ValueError, match="the sound of .*not_there"):
        sound_tracks(absent)
    with pytest.raises(WriteError, match="cannot write .* \\(ffmpeg: .*not_there"):
        movies.save_movie(out, [sample(400, 400)] * 100, movie, absent, [(0, "")])
    with pytest.raises(ValueError, match="name that ends in"):
        movies.save_movie(tmp_path / "a.gif", [sample()], movie)
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- what is checked, not believed

MOVING = lavfi("testsrc2=s=128x96:r=25:d=2")
TONE = lavfi("sine=d=2")


@ffmpeg
@pytest.mark.parametrize(
    "width, encoder, remedy",
    [(16400, "libx264", "a smaller movie"), (64, "libx999", "a full ffmpeg")],
)
def test_a_writer_that_cannot_is_no_full_disk(tmp_path, monkeypatch, width, encoder, remedy):
    monkeypatch.setattr(movies, "H264_AAC", ["-c:v", encoder])
    frames = [np.zeros((32, width, 3), np.uint8)]
    with pytest.raises(WriteError, match=f"{remedy}.* may help"):
        movies.save_movie(tmp_path / "a.mp4", frames, Movie(Fraction(25), None, "auto"))
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="the stand-in for ffmpeg is a shell script")
def test_a_writer_that_is_killed_is_said_so(tmp_path, monkeypatch):
    """As Linux does where memory runs out."""
    stand_in = tmp_path / "bin" / "ffmpeg"
    stand_in.parent.mkdir()
    stand_in.write_text("#!/bin/sh\nkill -9 $$\n")
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", f"{stand_in.parent}:{os.environ['PATH']}")
    with pytest.raises(WriteError, match="status -9.: check .* memory"):
        movies.save_movie(tmp_path / "a.mp4", [sample()] * 9, Movie(Fraction(25), None, "auto"))
    assert list(tmp_path.iterdir()) == [stand_in.parent]


@ffmpeg
@pytest.mark.skipif(os.name == "nt", reason="the stand-in for ffmpeg is a shell script")
@pytest.mark.parametrize(
    "suffix, left", [(".mp4", 60), (".mkv", 60), (".mkv", 90), (".webm", 60), (".mov", 0)]
)
def test_a_writer_that_reports_success_is_not_believed(tmp_path, monkeypatch, suffix, left):
    """As ffmpeg 5 on a full disk: it exits with 0, and only `left` % of the file are there."""
    stand_in = tmp_path / "bin" / "ffmpeg"
    stand_in.parent.mkdir()
    stand_in.write_text(
        f'#!/bin/sh\n{shutil.which("ffmpeg")} "$@" || exit 1\n'
        'for last; do :; done\nlast="${last#file:}"\n'
        f'truncate -s $(( $(stat -c %s "$last") * {left} / 100 )) "$last"\n'
    )
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", f"{stand_in.parent}:{os.environ['PATH']}")
    movie = Movie(Fraction(25), None, "auto")
    with pytest.raises(WriteError, match="cannot write"):
        movies.save_movie(tmp_path / f"a{suffix}", [sample(120, 160, i) for i in range(60)], movie)
    assert list(tmp_path.iterdir()) == [stand_in.parent]


@ffmpeg
def test_a_full_disk(tmp_path):
    """A real one, where this user may mount it."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount a small file system")
    try:
        for suffix in movies.MOVIES:
            noise = np.random.default_rng(0).integers(0, 256, (30, 96, 128, 3), np.uint8)
            with pytest.raises(WriteError, match="cannot write"):
                movies.save_movie(disk / f"a{suffix}", noise, Movie(25, None, ""))
            assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@ffmpeg
@pytest.mark.parametrize(
    "name, codec",
    [
        ("a.webm", ("-c:v", "libvpx-vp9", "-pix_fmt", "yuva420p")),
        ("a.webm", ("-c:v", "libvpx", "-pix_fmt", "yuva420p", "-auto-alt-ref", "0")),
        ("a.mov", ("-c:v", "qtrle", "-pix_fmt", "argb")),
        ("a.mov", ("-c:v", "prores_ks", "-pix_fmt", "yuva444p10le")),
        ("a.mkv", ("-c:v", "ffv1", "-pix_fmt", "bgra")),
        ("a.mov", ("-c:v", "png", "-pix_fmt", "pal8")),
    ],
)
def test_transparent_parts_of_a_movie_are_white(tmp_path, name, codec):
    """Red all over, but only the left half is opaque."""
    palette = (
        ",split[a][b];[a]palettegen[p];[b][p]paletteuse=dither=none" if "pal8" in codec else ""
    )
    make(
        *lavfi("color=red:s=64x48:r=10:d=1,format=rgba"),
        *("-vf", f"geq=r='r(X,Y)':g='g(X,Y)':b='b(X,Y)':a='255*lt(X,W/2)'{palette}", *codec),
        tmp_path / name,
    )
    frames = read(tmp_path / name)
    assert len(frames) == 10
    for frame in frames:
        assert np.abs(frame[:, 34:].astype(int) - 255).max() <= 6
        assert np.abs(frame[:, :30].astype(int) - [255, 0, 0]).max() <= 12


@ffmpeg
@pytest.mark.parametrize("suffix, codec", [(".mov", "png"), (".avi", "rawvideo")])
def test_an_opaque_palette_stays_as_it_is(tmp_path, suffix, codec):
    path = tmp_path / f"a{suffix}"
    palette = "split[a][b];[a]palettegen=reserve_transparent=0[p];[b][p]paletteuse"
    options = ("-vf", palette, "-c:v", codec, "-pix_fmt", "pal8")
    make(*lavfi("color=red:s=64x48:r=10:d=1"), *options, path)
    assert movies.probe(path).alpha
    for frame in read(path):
        assert np.abs(frame.astype(int) - [255, 0, 0]).max() <= 12


@pytest.mark.parametrize(
    "times, kept",
    [
        ([0.0] * 6, [0, 1, 2, 3, 4, 5]),  # all the same
        ([0.0, 0.1, 0.2, 0.0, 0.1, 0.2], [0, 1, 2, 3, 4, 5]),  # two files in a row
        ([None] * 4, [0, 1, 2, 3]),
        ([0.0, 0.02, 0.04, 0.1, 0.2], [2, 3, 4]),  # too fast for ten a second
        ([0.0, 0.3, 0.4], [0, 0, 0, 1, 2]),  # one stays for three
        ([0.1, 0.2], [0, 0, 1]),  # the first is shown until the second comes
        ([0.05, 0.15, 0.25, 0.35], [0, 0, 1, 2, 3]),  # half way between two
        ([0.049, 0.151, 0.249, 0.351], [0, 0, 1, 2, 3]),  # about that
        ([0.0, 0.1, 0.25, 0.35, 0.45], [0, 1, 2, 2, 3, 4]),  # from a gap on
    ],
)
def test_frames_whose_times_repeat_or_go_back(tmp_path, monkeypatch, times, kept):
    frames = [np.full((2, 2, 3), number, np.uint8) for number in range(len(times))]
    monkeypatch.setattr(movies, "readable_parts", lambda *_: zip(times, frames))
    movie = SimpleNamespace(rate=Fraction(10))
    lost = []
    shown = [frame[0, 0, 0] for frame in movies.read_movie(tmp_path, movie, lost=lost)]
    assert shown == kept
    assert len(lost) == len(set(range(len(times))) - set(kept))


@ffmpeg
@pytest.mark.parametrize("place", [5, 11, 15])  # sixteenths
def test_after_damage_it_goes_on_where_times_start_anew(tmp_path, place):
    """Two recordings in one file, and something broken in one of them."""
    part = tmp_path / "part.ts"
    make(*lavfi("testsrc2=s=64x48:r=30"), "-frames:v", 60, *H264, "-g", 10, part)
    whole = bytearray(2 * part.read_bytes())
    packet = len(whole) // 188 * place // 16
    whole[188 * packet + 4 : 188 * packet + 184] = bytes(180)
    part.write_bytes(whole)
    covered = []
    frames = read(part, stop=False, covered=covered)
    assert 114 <= len(frames) <= 122 and 0 < len(covered) < 30
    assert not any(frames[i].any() for i in covered)
    with pytest.raises(ValueError, match="cannot be decoded at about frame .*--on_error cover"):
        read(part)


@ffmpeg
def test_damage_in_a_movie_without_times_is_refused(tmp_path):
    """Nobody knows which keyframe is the next."""
    path = tmp_path / "a.h264"
    make(*lavfi("testsrc2=s=64x48:r=30"), "-frames:v", 60, *H264, "-g", 10, path)
    spoilt = bytearray(path.read_bytes())
    middle = len(spoilt) // 2
    spoilt[middle : middle + 300] = bytes(300)
    path.write_bytes(spoilt)
    with pytest.raises(ValueError, match="keyframes have no times"):
        read(path, stop=False)


@ffmpeg
def test_a_full_temporary_folder_is_no_end_of_the_movie(tmp_path, monkeypatch):
    make(*lavfi("testsrc2=s=64x48:r=30"), "-frames:v", 120, *H264, tmp_path / "a.mp4")
    monkeypatch.setattr(ffmpeg_module._Messages, "read", lambda messages: None)  # it stays empty
    with pytest.raises(ValueError, match="cannot write its log in .*: free some space"):
        read(tmp_path / "a.mp4")


@ffmpeg
def test_a_frame_rate_is_measured_where_the_file_has_none(tmp_path):
    """As a browser records: 40 pictures at uneven times, in ms, no rate, no length."""
    times = "setpts='N*45+20*mod(N,2)',settb=1/1000"
    make(
        *(*lavfi("testsrc2=s=64x48:r=1000:d=0.04"), "-vf", f"settb=1/1000,{times}"),
        *("-vsync", "passthrough", "-enc_time_base", "1/1000", "-c:v", "libvpx"),
        *("-f", "webm", "-live", "1", tmp_path / "a.webm"),
    )
    movie = movies.probe(tmp_path / "a.webm")
    assert 20 < movie.rate < 24
    frames = read(tmp_path / "a.webm")
    assert 38 <= len(frames) <= 42 and 1.7 < len(frames) / movie.rate < 1.9


@ffmpeg
@pytest.mark.parametrize("rate", [5, 240, 1000])
def test_true_rates_are_kept(tmp_path, rate):
    make(*lavfi(f"testsrc2=s=64x48:r={rate}"), "-frames:v", 30, *H264, tmp_path / "a.mp4")
    assert movies.probe(tmp_path / "a.mp4").rate == rate and len(read(tmp_path / "a.mp4")) == 30


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """A stream of 50 frames with a keyframe every 20."""
    path = tmp_path_factory.mktemp("recording") / "whole.ts"
    make(*MOVING, *TONE, "-c:v", "libx264", "-g", 20, "-bf", 2, "-c:a", "aac", path)
    keys = [i for i, (_, key) in enumerate(list_packets(path)) if key]
    assert keys[:2] == [0, 20]
    return path


@ffmpeg
def test_a_recording_that_begins_between_keyframes(tmp_path, recording):
    """The start is black, also when damage is to stop; from the first keyframe on all is there."""
    cut = tmp_path / "cut.ts"
    data = recording.read_bytes()
    cut.write_bytes(data[188 * (len(data) // 188 // 6) :])
    covered = []
    frames = read(cut, covered=covered)
    first = len(covered)
    assert 0 < first < 20 and covered == list(range(first))
    originals = read(recording)  # the first one twice: the tone begins half a frame before it
    assert len(frames) - first == 30 and len(originals) == 51
    for frame, original in zip(frames[first:], originals[21:], strict=True):
        np.testing.assert_array_equal(frame, original)


@ffmpeg
@pytest.mark.parametrize("how", ["0", "90", "180", "270"])
def test_the_middle_of_a_turned_movie_is_as_in_the_whole(tmp_path, recording, how):
    """It is decoded from a copy of the packets, which does not say how the movie is turned."""
    turned = tmp_path / "turned.mp4"
    make("-i", recording, "-map", "0:v", "-c", "copy", "-metadata:s:v:0", f"rotate={how}", turned)
    movie = movies.probe(turned)
    direct = list(decode(turned, movie, 0))
    again = list(decode(turned, movie, 20))
    assert len(direct) == 50 and len(again) == 30
    for (time, frame), (time_again, frame_again) in zip(direct[20:], again):
        assert abs(time - time_again) < 0.002
        np.testing.assert_array_equal(frame, frame_again)


@ffmpeg
@pytest.mark.parametrize("a, b, c, d", [(s, 0, 0, t) for s in (1, -1) for t in (1, -1)])
@pytest.mark.parametrize("across", [False, True])
def test_a_movie_is_turned_and_mirrored_as_its_matrix_says(tmp_path, a, b, c, d, across):
    """x' = a x + c y, y' = b x + d y, here by numpy; also in the middle, from copied packets."""
    if across:
        a, b, c, d = 0, a, d, 0
    path = tmp_path / "a.mp4"
    make(*lavfi("testsrc2=s=64x48:r=25:d=1"), *H264, "-g", 10, path)
    stored = np.stack([frame for _, frame in decode(path, movies.probe(path), 0)])
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 44  # of version 0
    data[place : place + 36] = struct.pack(
        ">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 99 << 16, 99 << 16, 1 << 30
    )
    path.write_bytes(data)
    y, x = np.mgrid[:48, :64]
    columns = a * x + c * y
    rows = b * x + d * y
    upright = np.zeros((25, np.ptp(rows) + 1, np.ptp(columns) + 1, 3), np.uint8)
    upright[:, rows - rows.min(), columns - columns.min()] = stored
    movie = movies.probe(path)
    for first in (0, 10):
        got = np.stack([frame for _, frame in decode(path, movie, first)])
        np.testing.assert_array_equal(got, upright[first:])


@ffmpeg
def test_after_damage_a_trimmed_movie_goes_on_where_it_was(tmp_path):
    """An edit list hides frames before its start; nothing is shown twice, and sound stays right."""
    make(*lavfi("testsrc2=s=64x48:r=25:d=6"), *H264, "-g", 25, tmp_path / "a.mp4")
    path = tmp_path / "b.mp4"
    make("-ss", 1.8, "-i", tmp_path / "a.mp4", "-c", "copy", path)
    originals = read(path)
    data = bytearray(path.read_bytes())
    words = "ffprobe -v error -select_streams v -show_entries packet=pos,size -of csv=p=0".split()
    for line in subprocess.check_output([*words, path], text=True).split()[38:42]:
        size, place = map(int, line.strip(",").split(","))
        data[place + 8 : place + size] = b"\xff" * (size - 8)
    path.write_bytes(data)
    covered = []
    frames = read(path, covered=covered, stop=False)
    assert len(frames) == len(originals) and 0 < len(covered) < 40
    for number in set(range(len(frames))) - set(covered):
        np.testing.assert_array_equal(frames[number], originals[number])


@ffmpeg
def test_several_damaged_places(tmp_path):
    """In .ts: each costs the frames up to the next keyframe, and the last one those to the end."""
    path = tmp_path / "a.ts"
    make(*lavfi("testsrc2=s=128x96:r=25:d=6"), *H264, "-g", 10, path)
    originals = read(path)
    data = bytearray(path.read_bytes())
    for share in (0.3, 0.6, 0.97):
        middle = int(len(data) * share)
        data[middle : middle + 2000] = np.random.default_rng(0).bytes(2000)
    path.write_bytes(data)
    with pytest.raises(ValueError, match="cannot be decoded at about frame"):
        read(path)
    covered = []
    frames = read(path, covered=covered, stop=False)
    assert len(frames) == 150 and 10 < len(covered) < 90
    for number in set(range(150)) - set(covered):
        np.testing.assert_array_equal(frames[number], originals[number])


@ffmpeg
def test_spoilt_sound_does_not_condemn_the_picture(tmp_path):
    path = tmp_path / "a.mkv"
    make(*MOVING, *TONE, *H264, "-c:a", "aac", path)
    data = bytearray(path.read_bytes())
    found = subprocess.run(
        ["ffprobe", "-v", "error", "-select_streams", "a", "-show_entries", "packet=pos,size"]
        + ["-of", "csv=p=0", path],
        capture_output=True,
        text=True,
        check=True,
    )
    for line in found.stdout.split()[5:30]:
        size, place = map(int, line.strip(",").split(","))
        data[place + 20 : place + size] = bytes(max(0, size - 20))
    path.write_bytes(data)
    kinds = [stream["codec_type"] for stream in rewrite(path, tmp_path / "b.mp4")]
    assert kinds.count("audio") == 1


@ffmpeg
def test_sound_that_is_spoilt_from_its_start(tmp_path):
    """ffmpeg looks into the sound before the picture, and complains."""
    path = tmp_path / "a.avi"
    noise = np.random.default_rng(0)
    make(*MOVING, *TONE, *H264, "-c:a", "mp3", path)
    data = bytearray(path.read_bytes())
    words = "ffprobe -v error -select_streams a -show_entries packet=pos,size -of csv=p=0".split()
    for line in subprocess.check_output([*words, path], text=True).split():
        size, place = map(int, line.strip(",").split(","))
        data[place + 8 : place + size] = noise.bytes(max(0, size - 8))
    path.write_bytes(data)
    assert len(read(path)) == len(read(path, stop=False)) > 20


@ffmpeg
@pytest.mark.parametrize("words", ["[error] of mine", "corrupt decoded frame", "a] [fatal] b"])
def test_a_name_or_title_is_no_complaint_of_ffmpeg(tmp_path, words):
    path = tmp_path / words / f"{words}.mkv"
    path.parent.mkdir()
    make(*lavfi("testsrc2=s=64x48:d=0.2"), *H264, "-metadata", f"title={words}", path)
    assert len(read(path)) == 5
    assert not ffmpeg_module.ERROR_LINE.match(f"[info]   title : {words}")
    assert ffmpeg_module.ERROR_LINE.match(f"[a @ 0x1] [b @ 0x2] [error] {words} [info]")


@ffmpeg
def test_odd_sound_tracks(tmp_path):
    """5.1(side), mono, and one of an unknown codec: what can be decoded is kept, with languages."""
    path = tmp_path / "a.mov"
    make(
        *(*MOVING, *TONE, *TONE, "-map", 0, "-map", 1, "-map", 2, "-map", 2, "-t", 1, *H264),
        *("-filter:a:0", "aformat=channel_layouts=5.1(side)", "-c:a", "aac", "-c:a:2", "pcm_s16le"),
        *("-metadata:s:a:0", "language=eng", "-metadata:s:a:1", "language=fra", path),
    )
    path.write_bytes(path.read_bytes().replace(b"sowt", b"zzzz"))
    tracks, left_out = sound_tracks(path)
    assert tracks == [(0, "eng"), (1, "fra")] and "sound track 3" in left_out[0]
    movie = movies.probe(path)
    frames = read(path)
    for suffix in movies.MOVIES:
        out = tmp_path / f"out{suffix}"
        movies.save_movie(out, frames, movie, path, tracks)
        sound = [stream for stream in report(out)["streams"] if stream["codec_type"] == "audio"]
        assert [s["channels"] for s in sound] == [6, 1]
        languages = [
            s.get("tags", {}).get("language", s.get("tags", {}).get("LANGUAGE")) for s in sound
        ]
        assert languages == ["eng", "fra"]


@ffmpeg
def test_sound_that_breaks_off_is_told(tmp_path):
    path = tmp_path / "a.mp4"
    make(*MOVING, *TONE, *H264, "-c:a", "aac", path)
    data = bytearray(path.read_bytes())
    words = "ffprobe -v error -select_streams a -show_entries packet=pos,size -of csv=p=0".split()
    for line in subprocess.check_output([*words, path], text=True).split()[9:]:
        size, place = map(int, line.strip(",").split(","))
        data[place : place + size] = b"\xff" * size
    path.write_bytes(data)
    tracks, (left_out,) = sound_tracks(path)
    assert len(tracks) == 1 and re.fullmatch("[89].% of sound track 1 .damaged.", left_out)


@ffmpeg
def test_sound_before_the_start_of_a_trimmed_movie_is_not_called_damaged(tmp_path):
    """A movie trimmed without encoding begins at a keyframe; an edit list hides what is before."""
    make(*MOVING, *TONE, *H264, "-g", 100, "-c:a", "aac", tmp_path / "a.mp4")
    make("-ss", 0.5, "-i", tmp_path / "a.mp4", "-c", "copy", tmp_path / "b.mp4")
    assert sound_tracks(tmp_path / "b.mp4") == ([(0, "und")], [])


@ffmpeg
@pytest.mark.parametrize(
    "name, options, kept",
    [
        ("a.mov", "-ac 9 -c:a pcm_s16le", False),
        ("a.mov", "-ac 12 -c:a pcm_s16le", False),
        ("a.mkv", "-ac 4 -c:a libopus -mapping_family 2", False),  # ambisonic
        ("a.mov", "-ac 8 -c:a pcm_s16le", True),
        ("a.mkv", "-ac 4 -c:a pcm_s16le", True),
    ],
)
def test_sound_of_too_many_channels_does_not_cost_the_picture(tmp_path, name, options, kept):
    source = tmp_path / name
    channels = options.split()[1]
    sound = f"aevalsrc={'|'.join(['sin(t)'] * int(channels))}:d=1"
    make(*MOVING, *lavfi(sound), *H264, "-t", 1, *options.split(), source)
    tracks, left_out = sound_tracks(source)
    said = f"sound track 1 ({channels} channels cannot be mixed down)"
    assert (tracks, left_out) == (([(0, "")], []) if kept else ([], [said]))
    kinds = [stream["codec_type"] for stream in rewrite(source, tmp_path / "b.mp4")]
    assert kinds == ["video"] + ["audio"] * kept


@ffmpeg
@pytest.mark.parametrize("codec", ["h264", "mjpeg"])
def test_a_broken_cover_does_not_condemn_the_picture(tmp_path, codec):
    """But for a movie of the cover's own kind, where a complaint may be of either."""
    cover = tmp_path / "cover.jpg"
    Image.fromarray(sample()).save(cover)
    path = tmp_path / "a.mp4"
    options = ("-map", 0, "-map", 1, "-c:v:0", {"h264": "libx264"}.get(codec, codec), "-c:v:1")
    attached = (*options, "copy", "-disposition:v:1", "attached_pic")
    make(*lavfi("testsrc2=s=64x48:d=1"), "-i", cover, *attached, path)
    before = read(path)
    data = path.read_bytes()
    content = cover.read_bytes()
    assert data.count(content) == 1 and len(before) == 25
    path.write_bytes(data.replace(content, content[:2] + bytes(len(content) - 2)))
    if codec == "mjpeg":
        with pytest.raises(ValueError, match="cannot be decoded"):
            read(path)
    else:
        np.testing.assert_array_equal(read(path), before)


@ffmpeg
@pytest.mark.parametrize("interlaced", [True, False])
def test_an_interlaced_movie_comes_without_comb_lines(tmp_path, interlaced):
    """A bar that moves by 8 px each 1/50 second, in 25 frames of two half pictures, or whole."""
    path = tmp_path / "a.mpg"
    bar = "color=gray:s=128x96:r=50:d=1,geq=lum='if(between(X-8*mod(N,12),0,24),220,40)':cb=128"
    weave = ":cr=128,tinterlace=interleave_top" if interlaced else ":cr=128,fps=25"
    flags = ("-flags", "+ilme+ildct", "-top", 1) if interlaced else ()
    make(*lavfi(bar + weave), "-c:v", "mpeg2video", "-q:v", 1, *flags, path)
    movie = movies.probe(path)
    assert len(movie.filters) == interlaced
    as_stored = dataclasses.replace(movie, filters=())
    stored = np.stack([frame for _, frame in decode(path, as_stored, 0)])[..., 0]
    frames = np.stack([frame for _, frame in decode(path, movie, 0)])[..., 0]
    assert len(frames) == len(stored) == 25

    def combed(pictures):  # pixels unlike both neighbors above and below, which are alike
        rows = pictures.astype(int)
        apart = np.minimum(abs(rows[:, 1:-1] - rows[:, :-2]), abs(rows[:, 1:-1] - rows[:, 2:]))
        return (apart > 60).mean()

    if interlaced:
        assert combed(stored) > 0.05 and combed(frames) < 0.1 * combed(stored)
    else:
        assert combed(frames) == combed(stored) == 0


@ffmpeg
@pytest.mark.parametrize("suffix", [".ts", ".mpg", ".h264"])
def test_a_movie_of_one_frame(tmp_path, suffix):
    codec = ["-c:v", "mpeg2video"] if suffix == ".mpg" else H264
    make(*lavfi("testsrc2=s=64x48:r=25"), "-frames:v", 1, *codec, tmp_path / f"a{suffix}")
    assert movies.probe(tmp_path / f"a{suffix}").rate == 25
    first, *others = read(tmp_path / f"a{suffix}")  # an .mpg may begin late
    assert all((frame == first).all() for frame in others)


@ffmpeg
@pytest.mark.parametrize("stop", [True, False])
def test_what_an_ffmpeg_lacks_gives_no_frame(tmp_path, monkeypatch, stop):
    path = tmp_path / "a.mp4"
    make(*lavfi("testsrc2=s=64x48:r=25:d=1"), *H264, path)
    lacking = dataclasses.replace(movies.probe(path), decoder="libvp999")
    said = "libvp999" if stop else "holds no frame that can be read"
    with pytest.raises(ValueError, match=f"{said}.*install a full ffmpeg"):
        list(movies.read_movie(path, lacking, stop=stop))


@ffmpeg
@pytest.mark.parametrize("transfer", ["smpte2084", "arib-std-b67"])
def test_hdr_is_tone_mapped(tmp_path, transfer):
    """White, gray and red of a normal movie, lifted to HDR, come back much as they were."""
    if b"zscale" not in subprocess.run(["ffmpeg", "-filters"], capture_output=True).stdout:
        pytest.skip("this ffmpeg has no zscale filter")
    path = tmp_path / "a.mkv"
    bars = "color=gray:s=96x64:r=10:d=1,drawbox=c=white:t=fill:w=32"
    bars = f"{bars},drawbox=c=red:t=fill:x=64:w=32"
    lift = "setparams=color_primaries=bt709:color_trc=bt709:colorspace=bt709:range=tv"
    lift = (
        f"{lift},zscale=t=linear:npl=100,format=gbrpf32le,zscale=p=bt2020:t={transfer}:m=bt2020nc"
    )
    make(
        *lavfi(f"{bars},format=yuv444p"),
        *("-vf", f"{lift},format=yuv420p10le"),
        *("-color_trc", transfer, "-color_primaries", "bt2020", "-colorspace", "bt2020nc"),
        *("-c:v", "ffv1", path),
    )
    assert movies.probe(path).filters
    frame = read(path)[5].astype(int)
    white, gray, red = frame[32, 10], frame[32, 48], frame[32, 85]
    assert white.min() > 160 and np.ptp(white) < 12, white
    assert 60 < gray.mean() < 160 and white.mean() - gray.mean() > 50
    assert red[0] > 150 and red[1:].max() < 90
