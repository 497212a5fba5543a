"""files: tables, texts, pictures and pair lists, and what is said about wrong ones; writing."""

import errno
import multiprocessing
import os
import socket
import sqlite3
import struct
import sys
import unicodedata
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from ppad import files
from ppad.files import (
    BadPicture,
    DataError,
    WriteError,
    atomic_path,
    check_writable,
    clock,
    decode_picture,
    find_picture,
    lock,
    numbers,
    open_picture,
    plain_name,
    print_progress,
    read_json,
    read_pair_lines,
    read_picture,
    read_table,
    read_text,
    to_rgb,
    write_file,
)


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


# ---------------------------------------------------------------- writing


def no_space(*names):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_write_file_is_all_or_nothing(tmp_path, monkeypatch):
    write_file(tmp_path / "a.json", "old")
    monkeypatch.setattr(os, "replace", no_space)
    with pytest.raises(WriteError, match=r"cannot write .*a\.json \(No space left.*disk space"):
        write_file(tmp_path / "a.json", "new")
    assert (tmp_path / "a.json").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("error", [no_space, KeyboardInterrupt, ValueError])
def test_a_block_that_fails_leaves_what_was_there(tmp_path, error):
    (tmp_path / "a.bin").write_bytes(b"old")
    with pytest.raises((WriteError, KeyboardInterrupt, ValueError)):
        with atomic_path(tmp_path / "a.bin") as temporary:
            temporary.write_bytes(b"half")
            assert temporary.parent == tmp_path and files.is_hidden(temporary)
            raise error() if error is not no_space else no_space()
    assert (tmp_path / "a.bin").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_folders_are_made_and_a_place_that_cannot_be_written_is_noticed_before_the_work(tmp_path):
    write_file(tmp_path / "a/b/c.txt", "caf\u00e9")
    assert (tmp_path / "a/b/c.txt").read_bytes() == "caf\u00e9".encode()
    entered = []
    with pytest.raises(WriteError, match=r"cannot write .*c\.txt/d\.txt \(.*choose another place"):
        with atomic_path(tmp_path / "a/b/c.txt/d.txt") as temporary:
            entered.append(temporary)
    assert entered == []


def test_the_longest_name_can_be_written(tmp_path):
    for name in ("x" * 255, "\u00e9" * 127):
        write_file(tmp_path / name, "a")
    assert len(list(tmp_path.iterdir())) == 2


def test_a_name_that_is_too_long_is_noticed_before_the_work(tmp_path):
    entered = []
    with pytest.raises(WriteError, match=r"cannot write .*xx \(.*\): choose a shorter name"):
        with atomic_path(tmp_path / ("x" * 256)) as temporary:
            entered.append(temporary)
    assert entered == [] and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("durable", [True, False])
def test_what_is_renamed_is_on_the_disk_first(tmp_path, monkeypatch, durable):
    """Else a machine that goes down may keep the new name and lose the content."""
    happened = []
    sync = os.fsync
    replace = os.replace
    monkeypatch.setattr(os, "fsync", lambda file: happened.append("content") or sync(file))
    monkeypatch.setattr(os, "replace", lambda *names: happened.append("name") or replace(*names))
    write_file(tmp_path / "a.json", "new", durable)
    assert happened == ["content", "name"][not durable :]


def test_read_json_names_what_it_cannot_read(tmp_path):
    write_file(tmp_path / "a.json", '{"minutes": 3}')
    assert read_json(tmp_path / "a.json") == {"minutes": 3}
    for spoilt in ("", '{"minutes": ', "[1, 2]", "\x00" * 20):
        (tmp_path / "a.json").write_text(spoilt)
        with pytest.raises(
            DataError, match=r"a\.json cannot be read .*: delete it and run the same command again"
        ):
            read_json(tmp_path / "a.json")
    with pytest.raises(DataError, match="b.json does not exist"):
        read_json(tmp_path / "b.json")


# ---------------------------------------------------------------- one run in a folder


def hold(folder, held, leave):
    with lock(folder):
        held.set()
        leave.wait(60)


def test_a_second_run_is_told_whose_the_folder_is(tmp_path):
    with lock(tmp_path / "run"):
        with pytest.raises(DataError) as refused:
            with lock(tmp_path / "run"):
                raise AssertionError("two at once")
        said = str(refused.value)
        assert f"run is in use by process {os.getpid()} on {socket.gethostname()}, since 20" in said
        with lock(tmp_path / "other"):
            pass
    with lock(tmp_path / "run"):  # it is free again, also after an error
        pass
    with pytest.raises(KeyError):
        with lock(tmp_path / "run"):
            raise KeyError
    with lock(tmp_path / "run"):
        assert (tmp_path / "run/.lock.txt").exists()
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "disk that is not there" / "data")
    with pytest.raises(WriteError, match="cannot write .*link .File exists.: choose another"):
        with lock(tmp_path / "link"):
            pass


def test_the_lock_of_a_killed_run_is_taken_over(tmp_path):
    context = multiprocessing.get_context("spawn")
    held, leave = context.Event(), context.Event()
    child = context.Process(target=hold, args=(tmp_path, held, leave))
    child.start()
    assert held.wait(60)
    with pytest.raises(DataError, match=f"in use by process {child.pid} on"):
        with lock(tmp_path):
            pass
    child.kill()
    child.join()
    assert f"process {child.pid}" in (tmp_path / ".lock.txt").read_text()  # it could not tidy up
    with lock(tmp_path):
        assert f"process {os.getpid()}" in (tmp_path / ".lock.txt").read_text()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_that_ends_does_not_free_the_folder(tmp_path):
    with lock(tmp_path):
        child = multiprocessing.get_context("fork").Process(target=int)
        child.start()
        child.join()
        held, leave = (multiprocessing.get_context("spawn").Event() for _ in range(2))
        other = multiprocessing.get_context("spawn").Process(
            target=hold, args=(tmp_path, held, leave)
        )
        other.start()
        other.join(60)
        assert other.exitcode == 1 and not held.is_set()


def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch, capsys):
    class Connection:
        def execute(self, _):
            raise sqlite3.OperationalError("disk I/O error")

        def close(self):
            pass

    monkeypatch.setattr(sqlite3, "connect", lambda *_, **__: Connection())
    with lock(tmp_path):
        pass
    said = capsys.readouterr().err
    assert ".lock cannot be locked (disk I/O error): start no second run here" in said


def test_whether_a_folder_can_be_written_is_tried(tmp_path, monkeypatch):
    check_writable(tmp_path / "a/b")
    check_writable(tmp_path)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match=r"cannot write .*file.* \(Not a directory\)"):
        check_writable(tmp_path / "file/a")
    monkeypatch.setattr(files.tempfile, "TemporaryFile", lambda dir: no_space())
    with pytest.raises(WriteError, match="No space left.*disk space"):
        check_writable(tmp_path)


# ---------------------------------------------------------------- texts and tables


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("comma", [",", "\t", ";"])
def test_table_with_any_separator_and_byte_order_mark(tmp_path, comma, mark):
    path = write(tmp_path / "t.csv", mark + f"file{comma}a\nx/1.png{comma}2.5\nx/2.png{comma}3\n")
    rows = read_table(path, ("file", "a"))
    assert [(row["file"], *numbers(row, ("a",))) for row in rows] == [
        ("x/1.png", 2.5),
        ("x/2.png", 3.0),
    ]
    assert rows[1]["where"].endswith("line 3")


def test_cells_are_stripped_and_short_rows_end_in_none(tmp_path):
    path = write(
        tmp_path / "t.csv", "file , a,b\r\n x.png, \twalk ,1\r\ny.png\r\n\r\nz.png,,2, ,\r\n"
    )
    rows = [{k: v for k, v in row.items() if k != "where"} for row in read_table(path, ("a",))]
    assert rows == [
        {"file": "x.png", "a": "walk", "b": "1"},
        {"file": "y.png", "a": None, "b": None},
        {"file": "z.png", "a": "", "b": "2"},
    ]


def test_numbers_with_underscores_are_none(tmp_path):
    (row,) = read_table(write(tmp_path / "t.csv", "a,b\n3_4,5\n"), ("a",))
    assert numbers(row, ["b"]) == [5.0]
    with pytest.raises(DataError, match="line 2: a is '3_4', not a finite number"):
        numbers(row, ["a"])


def test_read_json_asks_for_what_is_needed(tmp_path):
    path = tmp_path / "a.json"
    for content, fault in (
        ("{}", "it lacks b"),
        ("[]", "it is not a JSON object"),
        ('{"a": 1}', "it lacks b"),
    ):
        path.write_text(content)
        with pytest.raises(DataError, match=f"a.json cannot be read .{fault}.: delete it"):
            read_json(path, needs=["a", "b"] if "a" in content else ["b"])
    path.write_text('{"b": 2}')
    assert read_json(path, needs=["b"]) == {"b": 2}


def test_table_faults_are_named(tmp_path):
    with pytest.raises(DataError, match="t.csv: two columns are named a; delete or rename"):
        read_table(write(tmp_path / "t.csv", "file,a,a\nx,1,2\n"), ("file",))
    with pytest.raises(DataError, match="first line 3; put .*write decimals with a point"):
        read_table(write(tmp_path / "t.csv", "file,a,b\nx,1,5,2,5\n"), ("file",))
    with pytest.raises(DataError, match="no such table"):
        read_table(tmp_path / "none.csv", ("file",))
    with pytest.raises(DataError, match="lacks the column.*b, c"):
        read_table(write(tmp_path / "t.csv", "file,a\nx,1\n"), ("file", "b", "c"))
    for empty in ("file,a\n", "file,a"):
        assert read_table(write(tmp_path / "t.csv", empty), ("file",), may_be_empty=True) == []
        with pytest.raises(DataError, match="no row"):
            read_table(write(tmp_path / "t.csv", empty), ("file",))
    with pytest.raises(DataError, match="lacks the column"):
        read_table(write(tmp_path / "t.csv", ""), ("file",))
    with pytest.raises(DataError, match="t.csv, line 3: file is empty"):
        read_table(write(tmp_path / "t.csv", "a,file\n1,x\n2\n"), ("file", "a"))
    with pytest.raises(DataError, match="t.csv, line 3: file is empty"):
        read_table(write(tmp_path / "t.csv", "a,file\n1,x\n2, \n"), ("file", "a"))
    with pytest.raises(DataError, match="t.csv: cannot be read as a table .*field larger"):
        read_table(write(tmp_path / "t.csv", 'file,a\n"' + "x" * 200_000), ("file",))
    (tmp_path / "t.csv").write_bytes("file,a\nJos\u00e9.png,1\n".encode("latin1"))
    with pytest.raises(
        DataError, match="t.csv: cannot be read as a table .*can't decode.*; save it in UTF-8"
    ):
        read_table(tmp_path / "t.csv", ("file",))


@pytest.mark.parametrize("above", ["sep=,", "# made by hand", ""])
def test_a_line_above_the_header_is_named(tmp_path, above):
    """As Excel and other tools write; not the rows below are at fault."""
    (tmp_path / "t.csv").write_text(f"{above}\nfile,x\n1.png,2\n")
    with pytest.raises(DataError, match="its first line lacks the column.s. file, x"):
        read_table(tmp_path / "t.csv", ("file", "x"))


def test_two_pictures_that_differ_in_the_case_of_the_suffix_are_not_merged(tmp_path):
    """One of the two would have been lost, and its boxes drawn on the other."""
    with pytest.raises(DataError, match="line 3: b/x.JPG ends in .jpg further up; rename one"):
        read_table(write(tmp_path / "t.csv", "file\nb/x.jpg\nb/x.JPG\n"), ("file",))
    rows = read_table(write(tmp_path / "t.csv", "file\nx.JPG\nx.JPG\nb\\x.jpg\n"), ("file",))
    assert [row["file"] for row in rows] == ["x.jpg", "x.jpg", "b/x.jpg"]


@pytest.mark.parametrize("text", ["nan", "inf", "", "seven", None, "1e300"])
def test_a_number_that_is_none_names_row_and_column(text):
    with pytest.raises(DataError, match="t.csv, line 4: x_min"):
        numbers({"where": "t.csv, line 4", "x_min": text}, ("x_min",))


def test_a_text_that_is_absent_or_in_another_encoding_is_named(tmp_path):
    assert read_text(write(tmp_path / "t.txt", "\ufeffJos\u00e9\n")) == "Jos\u00e9\n"
    with pytest.raises(DataError, match="none.txt: there is no such file"):
        read_text(tmp_path / "none.txt")
    (tmp_path / "t.txt").write_bytes("Jos\u00e9\n".encode("latin1"))
    with pytest.raises(DataError, match="t.txt: cannot be read .*save it in UTF-8"):
        read_text(tmp_path / "t.txt")


@pytest.mark.parametrize("name", ["._a.png", ".DS_Store", ".a.jpg"])
def test_hidden_files_are_no_pictures(name):
    assert files.is_hidden(f"x/{name}") and not files.is_picture(f"x/{name}")
    assert files.is_picture("x/a.PNG") and not files.is_picture("x/a.txt")


@pytest.mark.parametrize(
    "name, plain",
    [
        ("a/b.png", "a/b.png"),
        ("./a//b.PNG", "a/b.png"),
        ("a\\b.Jpg", "a/b.jpg"),
        ("A.B/c.d.JPEG", "A.B/c.d.jpeg"),
        ("Zoe\u0308/1.png", "Zo\u00eb/1.png"),
        ("../a.png", "../a.png"),
        (".", "."),
    ],
)
def test_names_have_one_spelling(name, plain):
    assert plain_name(name) == plain == plain_name(plain)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("suffix", ["png", "PNG", "Png"])
def test_a_picture_is_found_by_its_plain_name(tmp_path, form, suffix):
    path = tmp_path / unicodedata.normalize(form, f"Zo\u00eb/\u00fc.{suffix}")
    path.parent.mkdir()
    path.write_bytes(b"")
    assert find_picture(tmp_path, "Zo\u00eb/\u00fc.png") == path
    assert find_picture(tmp_path, "Zo\u00eb/u.png") == tmp_path / "Zo\u00eb/u.png"  # there is none


def test_names_in_tables_are_plain_and_decimal_commas_are_read(tmp_path):
    text = "file;a;b\n.\\x\\1.PNG;2,5;-0,25\nZoe\u0308.png; 1,5 ;walk, talk\nx 1,5.png;2,5;3,5"
    first, second, third = read_table(write(tmp_path / "t.csv", text), ("file", "a", "b"))
    assert first["file"] == "x/1.png" and numbers(first, ("a", "b")) == [2.5, -0.25]
    assert second["file"] == "Zo\u00eb.png" and numbers(second, ("a",)) == [1.5]
    assert second["b"] == "walk, talk" and third["file"] == "x 1,5.png"
    assert numbers(third, ("a", "b")) == [2.5, 3.5]
    text = 'file;a;b\n"y.png";"4,5";"-0,5"\n'  # all cells in quotes, as pandas can write them
    (row,) = read_table(write(tmp_path / "t.csv", text), ("file", "a", "b"))
    assert numbers(row, ("a", "b")) == [4.5, -0.5]
    with pytest.raises(DataError, match="t.csv, line 2: a is '2,5'"):  # might be thousands
        row = read_table(write(tmp_path / "t.csv", 'file,a\nx,"2,5"\n'), ("file", "a"))[0]
        numbers(row, ("a",))


PAIRS = "2\t2\nA\t1\t2\nA\t1\t3\nA\t1\tB\t1\nA\t2\tB\t1\nC\t1\t2\nD\t1\t2\nC\t1\tD\t1\nC\t2\tD\t1\n"


def test_pair_lines(tmp_path):
    pairs = read_pair_lines(write(tmp_path / "pairs.txt", PAIRS))
    assert [pair[2:] for pair in pairs] == [
        (same, fold) for fold in (0, 1) for same in (True, True, False, False)
    ]
    assert pairs[1][:2] == ("A/A_0001", "A/A_0003") and pairs[3][:2] == ("A/A_0002", "B/B_0001")
    for same in (PAIRS.replace("\t", " "), "\ufeff" + PAIRS, PAIRS.replace("\n", " \r\n\n")):
        assert read_pair_lines(write(tmp_path / "pairs.txt", same)) == pairs


@pytest.mark.parametrize(
    "old, new, says",
    [
        ("2\t2\n", "2\n", "first line"),
        ("2\t2\n", "", "first line"),
        (PAIRS, "0 0\n", "has 0 pairs"),
        ("C\t2\tD\t1\n", "", "has 7 pairs"),
        ("A\t1\t3", "A\t1", "pair 2 .*name i j"),
        ("A\t1\t3", "A\t1\tx", "pair 2 .*name i j"),
        ("A\t1\t3", "A\t1\t\u00b3", "pair 2 .*name i j"),
        ("2\t2\n", "2\t\u00b2\n", "first line"),
        ("A\t1\tB\t1", "A\t1\t2", "pair 3"),
        ("A\t1\t3", "A\t2\t1", "pair 2 .*new"),
        ("A\t1\t3", "A\t3\t3", "pair 2 .*two pictures"),
        ("A\t2\tB\t1", "A\t2\tA\t9", "pair 4"),
    ],
)
def test_pair_list_faults_are_named(tmp_path, old, new, says):
    assert old in PAIRS
    with pytest.raises(DataError, match=says):
        read_pair_lines(write(tmp_path / "pairs.txt", PAIRS.replace(old, new, 1)))


def test_a_pair_list_that_is_absent_or_empty_is_named(tmp_path):
    with pytest.raises(DataError, match="pairs.txt: there is no such file"):
        read_pair_lines(tmp_path / "pairs.txt")
    with pytest.raises(DataError, match="first line"):
        read_pair_lines(write(tmp_path / "pairs.txt", ""))


# ---------------------------------------------------------------- pictures


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_truncated_and_foreign_files_are_bad_pictures(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    whole = tmp_path / f"whole.{suffix}"
    cut = tmp_path / f"cut.{suffix}"
    Image.fromarray(noise).save(whole)
    assert open_picture(whole).size == (40, 40)
    cut.write_bytes(whole.read_bytes()[: len(whole.read_bytes()) // 2])
    with pytest.raises(BadPicture, match="cut.*cannot be read"):
        open_picture(cut)
    cut.write_bytes(b"<html>404</html>")
    with pytest.raises(BadPicture, match="cannot be read"):
        open_picture(cut)
    with pytest.raises(BadPicture, match="no such picture"):
        open_picture(tmp_path / "none.png")


def test_a_postscript_under_a_pictures_name_is_none(tmp_path):
    """Pillow would hand it to Ghostscript."""
    (tmp_path / "a.jpg").write_text(
        "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n%%EOF\n"
    )
    with Image.open(tmp_path / "a.jpg") as picture:
        assert picture.format == "EPS"
    with pytest.raises(BadPicture, match="a.jpg: cannot be read .*no picture format is known"):
        open_picture(tmp_path / "a.jpg")


def png_that_claims(width, height):
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", len(header))
        + chunk
        + struct.pack(">I", zlib.crc32(chunk))
        + b"\0\0\0\0IEND\xaeB`\x82"
    )


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [7100, 13_000, 60_000])
def test_a_picture_that_claims_too_many_pixels_is_not_decoded(tmp_path, side):
    path = tmp_path / "a.png"
    path.write_bytes(png_that_claims(side, side))
    with pytest.raises(BadPicture, match="a.png: .*pixels"):
        open_picture(path)
    Image.new("RGB", (9, 9)).save(path)
    with pytest.raises(BadPicture, match="9 x 9, more than the 80 pixels"):
        decode_picture(path, max_pixels=80)


def test_gray_pictures_become_rgb(tmp_path):
    Image.new("L", (8, 8), 7).save(tmp_path / "g.png")
    assert open_picture(tmp_path / "g.png").getpixel((0, 0)) == (7, 7, 7)


def test_16_bits_are_scaled_to_8(tmp_path):
    values = np.array([[0, 128, 129, 257, 32896, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    picture = np.asarray(open_picture(tmp_path / "a.png"))  # (1, 6, 3)
    assert picture[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255]
    assert (picture == picture[:, :, :1]).all()


def gray_tiff(path, bits, white_is_zero):
    """Write a TIFF of 16 bits a pixel by hand: Pillow writes neither 12 bits nor white as 0."""
    data = (np.arange(8 * 64, dtype="<u2") * 128).tobytes()
    entries = [(256, 64), (257, 8), (258, bits), (259, 1), (262, int(not white_is_zero))]
    entries += [(273, 8 + 2 + 9 * 12 + 4), (277, 1), (278, 8), (279, len(data))]
    head = b"II*\0" + struct.pack("<IH", 8, len(entries))
    tags = b"".join(struct.pack("<HHII", number, 4, 1, value) for number, value in entries)
    path.write_bytes(head + tags + bytes(4) + data)


@pytest.mark.parametrize("bits, white_is_zero", [(16, False), (16, True), (12, False)])
def test_deep_gray_tiffs_are_read_as_bright_as_they_are_or_refused(tmp_path, bits, white_is_zero):
    """Too dark, or inverted, a face in it would not be found."""
    gray_tiff(tmp_path / "a.tif", bits, white_is_zero)
    with Image.open(tmp_path / "a.tif") as picture:
        if bits == 16 and not white_is_zero:
            gray = np.asarray(to_rgb(picture))[..., 0].ravel()
            assert np.abs(gray - np.arange(512) * 128 / 257).max() <= 0.5
        else:
            with pytest.raises(ValueError, match="8 or 16 bits"):
                to_rgb(picture)


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_pixels_whose_black_and_white_nobody_knows_are_refused(kind):
    with pytest.raises(ValueError, match="8 or 16 bits"):
        to_rgb(Image.fromarray(np.full((4, 4), 70_000, kind)))


def test_a_picture_is_turned_upright(tmp_path):
    picture = Image.new("RGB", (40, 20), "blue")
    picture.paste("red", (0, 0, 8, 20))  # left as stored: on top once it is turned by 90 degrees
    for suffix in ("jpg", "png", "webp"):
        exif = picture.getexif()
        exif[0x112] = 6
        picture.save(tmp_path / f"a.{suffix}", exif=exif)
        upright = open_picture(tmp_path / f"a.{suffix}")
        assert upright.size == (20, 40)
        red, _, blue = upright.getpixel((10, 2))
        assert red > 200 and blue < 60
        red, _, blue = upright.getpixel((10, 30))
        assert red < 60 and blue > 200


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_data_do_not_spoil_a_picture(tmp_path):
    for number, data in enumerate((b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"x")):
        path = tmp_path / f"{number}.jpg"
        Image.new("RGB", (8, 4), "red").save(path, exif=data)
        assert open_picture(path).size == (8, 4)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_what_is_transparent_becomes_white(tmp_path, mode):
    hidden = Image.new("RGBA", (4, 4), (10, 200, 10, 0))
    if mode == "LA":
        hidden.convert("LA").save(tmp_path / "a.png")
    elif mode == "P":
        hidden.convert("RGB").convert("P").save(tmp_path / "a.png", transparency=bytes(256))
    elif mode == "RGB":
        hidden.convert("RGB").save(tmp_path / "a.png", transparency=(10, 200, 10))
    else:
        hidden.save(tmp_path / "a.png")
    assert open_picture(tmp_path / "a.png").getpixel((1, 1)) == (255, 255, 255)


def test_half_transparent_is_mixed_with_white(tmp_path):
    Image.new("RGBA", (4, 4), (0, 0, 0, 128)).save(tmp_path / "a.webp", lossless=True)
    assert open_picture(tmp_path / "a.webp").getpixel((1, 1)) == (127, 127, 127)


def test_a_color_profile_is_applied_and_a_damaged_one_left(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture = Image.new("RGB", (4, 4), (200, 100, 50))
    for number, data in enumerate((profile, b"no profile")):
        path = tmp_path / f"{number}.png"
        picture.save(path, icc_profile=data)
        assert np.abs(np.subtract(open_picture(path).getpixel((0, 0)), (200, 100, 50))).max() <= 1
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()  # for other pixels
    picture.save(tmp_path / "a.png", icc_profile=lab)
    assert open_picture(tmp_path / "a.png").getpixel((0, 0)) == (200, 100, 50)


def test_decode_picture_takes_bytes_and_leaves_the_name_to_its_caller(tmp_path):
    Image.new("RGB", (4, 4), "red").save(tmp_path / "a.png")
    with open(tmp_path / "a.png", "rb") as file:
        assert decode_picture(file).getpixel((0, 0)) == (255, 0, 0)
    with pytest.raises(BadPicture) as raised:
        decode_picture(write(tmp_path / "b.png", "no picture"))
    assert str(raised.value) == "cannot be read as a picture (no picture format is known)"


def test_a_picture_is_known_by_the_bytes_of_its_file(tmp_path):
    Image.new("RGB", (4, 4), "red").save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes())
    Image.new("RGB", (4, 4), "blue").save(tmp_path / "c.png")
    pictures, known = zip(*(read_picture(tmp_path / f"{name}.png") for name in "abc"))
    content = (tmp_path / "a.png").read_bytes()
    assert known[0] == known[1] == (len(content), zlib.crc32(content)) != known[2]
    assert pictures[2].getpixel((0, 0)) == (0, 0, 255)


def test_a_picture_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")

    def refused(path):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(files.Path, "read_bytes", refused)
    with pytest.raises(BadPicture, match=r"a.png: cannot be read \(Permission denied\)"):
        open_picture(tmp_path / "a.png")


# ---------------------------------------------------------------- progress


def test_clock():
    assert [clock(s) for s in (0, 9.6, 61, 3599.4, 3600, 7325)] == [
        "0:00",
        "0:10",
        "1:01",
        "59:59",
        "1:00:00",
        "2:02:05",
    ]


def test_progress_is_rewritten_on_a_terminal_only(capsys, monkeypatch):
    print_progress("one")
    print_progress("two", end=True)
    assert capsys.readouterr().err == "one\ntwo\n"
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    print_progress("one")
    print_progress("two", end=True)
    assert capsys.readouterr().err == "\r\033[Kone\r\033[Ktwo\n"


def test_a_line_of_progress_is_written_in_one_piece(monkeypatch):
    """Several jobs print to the same place: what is written in two could be torn apart."""
    written = []

    class Place:
        def isatty(self):
            return False

        def write(self, text):
            written.append(text)

        def flush(self):
            pass

    monkeypatch.setattr(sys, "stderr", Place())
    files.print_progress("a line")
    assert [text for text in written if text] == ["a line\n"]


def test_a_write_error_goes_through_as_it_is(tmp_path):
    """With itself as its cause, all that it holds (a decoder's processes) would live on."""
    with pytest.raises(files.WriteError) as caught, files.atomic_path(tmp_path / "a"):
        raise files.WriteError("full")
    assert caught.value.__cause__ is None and not list(tmp_path.iterdir())
