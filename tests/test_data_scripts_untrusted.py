"""Archives, pickles and MATLAB files by hostile hands: nothing runs, nothing is written, and the
culprit is named.
"""

import errno
import io
import os
import pickle
import struct
import sys
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "data_scripts"))

import _untrusted
from _untrusted import load_pickle, open_source, read_mat

from ppad.files import DataError

# ---------------------------------------------------------------- archives


def tar(path, members, mode="w:gz"):
    """members: (name, content) or a TarInfo."""
    with tarfile.open(path, mode) as archive:
        for member in members:
            info = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member[0])
            content = b"" if isinstance(member, tarfile.TarInfo) else member[1]
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def link(name, kind, target):
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = target
    return info


GOOD = [("lfw/A_B/A_B_0001.jpg", b"one"), ("lfw/A_B/A_B_0002.jpg", b"two")]


@pytest.mark.parametrize("kind", ["folder", "tgz", "tar", "zip"])
def test_folder_and_archives_read_alike(tmp_path, kind):
    path = tmp_path / "source"
    if kind == "folder":
        for name, content in GOOD:
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
    elif kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.mkdir("lfw") if hasattr(archive, "mkdir") else None
            for name, content in GOOD:
                archive.writestr(name, content)
    else:
        tar(path, GOOD, "w:gz" if kind == "tgz" else "w")
    source = open_source(path)
    assert {name: source.read(name) for name in reversed(list(source.members))} == dict(GOOD)


def test_folders_that_links_lead_to_are_read(tmp_path):
    """Large sets lie on another disk; people were lost without a word."""
    for name, content in GOOD:
        (tmp_path / "disk" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "disk" / name).write_bytes(content)
    (tmp_path / "source" / "lfw").mkdir(parents=True)
    (tmp_path / "source" / "lfw" / "A_B").symlink_to(tmp_path / "disk" / "lfw" / "A_B")
    source = open_source(tmp_path / "source")
    assert {name: source.read(name) for name in source.members} == dict(GOOD)


@pytest.mark.parametrize(
    "target, said", [("gone", "No such file"), (".", "Too many levels"), ("/", "Permission denied")]
)
def test_what_cannot_be_read_in_a_folder_is_named(tmp_path, monkeypatch, target, said):
    """Links to a disk that is not there, or that lead around, and folders of other users."""

    def scandir(path, plain=os.scandir):
        if os.path.realpath(path) == "/":
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return plain(path)

    monkeypatch.setattr(os, "scandir", scandir)
    (tmp_path / ".trash").symlink_to(target)  # what is hidden does not count
    open_source(tmp_path)
    for name in ("A_B", "C_D"):
        (tmp_path / name).symlink_to(target)
    with pytest.raises(DataError, match=f"cannot be read .{said}.* out of SOURCE"):
        open_source(tmp_path)


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_a_name_that_is_not_utf_8_is_refused(tmp_path, kind):
    """As old systems wrote accents: no table in UTF-8 could hold it."""
    name = os.fsdecode(b"Jos\xe9/1.jpg")
    path = tmp_path / "source"
    if kind == "tar":
        tar(path, [*GOOD, (name, b"x")], "w")
    else:
        (path / name).parent.mkdir(parents=True)
        (path / name).write_bytes(b"x")
    with pytest.raises(DataError, match=r"source: the name 'Jos.udce9/1.jpg' .* rename it"):
        open_source(path)


def test_a_zip_made_on_windows_reads_like_any_other(tmp_path):
    """Windows PowerShell's Compress-Archive writes backslashes, and an entry for each folder."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, content in [("lfw/A_B/", b""), *GOOD]:
            info = zipfile.ZipInfo("any")
            info.filename = name.replace("/", "\\")
            archive.writestr(info, content)
    source = open_source(tmp_path / "a.zip")
    assert {name: source.read(name) for name in source.members} == dict(GOOD)
    assert [source.size(name) for name in source.members] == [3, 3]


HOSTILE = {
    "leads out": ("../evil.jpg", b"x"),
    "absolute": ("/tmp/evil.jpg", b"x"),
    "backslash": ("a\\..\\evil.jpg", b"x"),
    "drive": ("C:evil.jpg", b"x"),
    "symbolic link": link("lfw/evil.jpg", tarfile.SYMTYPE, "/etc/passwd"),
    "hard link": link("lfw/evil.jpg", tarfile.LNKTYPE, "/etc/passwd"),
    "device": link("lfw/evil.jpg", tarfile.CHRTYPE, ""),
    "huge": ("evil.jpg", bytes(2000)),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_tar_is_refused_whole_and_named(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(_untrusted, "LARGEST", 1500)
    path = tar(tmp_path / "lfw.tgz", [*GOOD, HOSTILE[kind]])
    with pytest.raises(DataError, match="evil.jpg") as refused:
        open_source(path)
    assert str(path) in str(refused.value) and os.listdir(tmp_path) == ["lfw.tgz"]


@pytest.mark.parametrize("kind", ["leads out", "absolute", "backslash", "huge", "symbolic link"])
def test_hostile_zip_is_refused_whole_and_named(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(_untrusted, "LARGEST", 1500)
    with zipfile.ZipFile(tmp_path / "lfw.zip", "w") as archive:
        info = zipfile.ZipInfo("evil.jpg")
        if kind == "symbolic link":
            info.external_attr = 0o120777 << 16
            archive.writestr(info, "/etc/passwd")
        else:
            archive.writestr(*HOSTILE[kind])
    with pytest.raises(DataError, match="evil.jpg"):
        open_source(tmp_path / "lfw.zip")


@pytest.mark.parametrize("place, value", [(6, 99), (46, 0xFF)], ids=["version 9.9", "name"])
def test_a_zip_that_python_cannot_read_is_named(tmp_path, place, value):
    """Errors of zipfile that are neither BadZipFile nor OSError. place: of a byte in the central
    directory's first entry.
    """
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("\u00e9.jpg", b"x")
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[data.index(b"PK\x01\x02") + place] = value
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(DataError, match="a.zip: is not a complete .zip"):
        open_source(tmp_path / "a.zip")


def test_limits_on_all_members_together(tmp_path, monkeypatch):
    path = tar(tmp_path / "a.tgz", GOOD)
    monkeypatch.setattr(_untrusted, "MOST", 1)
    with pytest.raises(DataError, match="0002.jpg' exceeds the allowed number or total size"):
        open_source(path)
    monkeypatch.setattr(_untrusted, "MOST", 9)
    monkeypatch.setattr(_untrusted, "TOTAL", 5)
    with pytest.raises(DataError, match="exceeds the allowed number or total size"):
        open_source(path)


def test_a_header_that_asks_for_all_memory(tmp_path, monkeypatch):
    """A pax header of 300 kB of zeros, some hundred bytes packed: tarfile would read it at once."""
    monkeypatch.setattr(_untrusted, "LARGEST", 100_000)
    path = tar(tmp_path / "a.tgz", [*GOOD])
    info = tarfile.TarInfo("evil")
    info.type = tarfile.XHDTYPE
    info.size = 300_000
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(info, io.BytesIO(bytes(300_000)))
    assert path.stat().st_size < 5000
    with pytest.raises(DataError, match="claims"):
        open_source(path)


@pytest.mark.parametrize("spoil", [lambda b: b[: len(b) // 2], lambda b: b"<html>not found</html>"])
def test_a_damaged_archive_is_named(tmp_path, spoil):
    path = tar(tmp_path / "a.tgz", [("x.jpg", os.urandom(5000))])
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(DataError, match="a.tgz: is not a complete"):
        open_source(path)


def test_a_tgz_with_a_byte_changed_is_refused(tmp_path):
    """tarfile does not read as far as gzip's checksum, and a JPEG has none of its own."""
    with tarfile.open(tmp_path / "a.tgz", "w:gz", compresslevel=0) as archive:
        info = tarfile.TarInfo("x.jpg")
        info.size = 5
        archive.addfile(info, io.BytesIO(b"right"))
    content = (tmp_path / "a.tgz").read_bytes()
    assert open_source(tmp_path / "a.tgz").read("x.jpg") == b"right"
    (tmp_path / "a.tgz").write_bytes(content.replace(b"right", b"wrong"))
    with pytest.raises(DataError, match="a.tgz: is not a complete .*CRC check failed"):
        open_source(tmp_path / "a.tgz")


def test_an_archive_of_another_kind_is_to_be_unpacked(tmp_path):
    tar(tmp_path / "a.tar.xz", GOOD, "w:xz")
    with pytest.raises(DataError, match="or unpack it if it is of another kind"):
        open_source(tmp_path / "a.tar.xz")


# ---------------------------------------------------------------- pickles


def py2(content):
    """A pickle as Python 2 wrote it: protocol 2, the old names of modules, and arrays' bytes as
    text.
    """
    return pickle.dumps(content, protocol=2).replace(
        b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"
    )


def test_plain_contents_come_out_equal(tmp_path):
    content = {
        "box": np.float32([[0.1, 0.2, 0.3, 0.4]]),
        "n": [1, 2.5, None, True, ("a", {"b"})],
        "ü": np.arange(6).reshape(2, 3).T,
        "names": np.array(["x", "yy"]),
        "objects": np.array([1, "a", None], object),
        "one": np.float64(3.5),
        "empty": np.zeros((0, 4)),
        "big": np.array([1, 2], ">i4"),
        "yes": np.array([True, False]),
    }
    (tmp_path / "a.pkl").write_bytes(py2(content))
    got = load_pickle(tmp_path / "a.pkl")
    assert got.keys() == content.keys() and got["n"] == content["n"] and got["one"] == 3.5
    for key in ("box", "ü", "names", "objects", "empty", "big", "yes"):
        assert (
            got[key].dtype == content[key].dtype.newbyteorder("=")
            and got[key].shape == content[key].shape
        )
        assert np.array_equal(got[key], content[key]), key


def test_python_2_own_bytes(tmp_path):
    """Written out by hand: {'x': numpy.array([1.5, -2.0])} of Python 2, whose array bytes are a str
    (opcode U).
    """
    raw = struct.pack("<2d", 1.5, -2.0)
    assembled = (
        b"\x80\x02}U\x01xcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
        b"K\x00\x85U\x01b\x87R(K\x01K\x02\x85"
        b"cnumpy\ndtype\n"
        b"U\x02f8K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x10"
        + raw
        + b"tbs."
    )
    (tmp_path / "a.pkl").write_bytes(assembled)
    assert load_pickle(tmp_path / "a.pkl")["x"].tolist() == [1.5, -2.0]


class Call:
    def __init__(self, function, *arguments):
        self.what = function, arguments

    def __reduce__(self):
        return self.what


HOSTILE_CALLS = {
    "system": lambda p: Call(os.system, f"touch {p}"),
    "open": lambda p: Call(open, str(p), "w"),
    "eval": lambda p: Call(eval, f"open({str(p)!r}, 'w')"),
    "getattr": lambda p: Call(getattr, os, "system"),
}


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("kind", HOSTILE_CALLS)
def test_malicious_pickle_does_nothing_and_is_named(tmp_path, kind, protocol):
    evil = tmp_path / "daly1.1.0.pkl"
    trace = tmp_path / "trace"
    planted = HOSTILE_CALLS[kind](trace) if kind != "getattr" else Call(getattr, "text", "upper")
    evil.write_bytes(pickle.dumps({"splits": [[]], "annot": planted}, protocol=protocol))
    with pytest.raises(DataError, match=kind) as refused:
        load_pickle(evil)
    assert not trace.exists() and str(evil) in str(refused.value)
    if kind == "system":  # the trap works: without the restriction it would have run
        pickle.loads(evil.read_bytes())
        assert trace.exists()


def forged(shape, raw, code=b"f8"):
    size = struct.pack("<I", shape)
    return (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
        b"K\x00\x85U\x01b\x87R(K\x01J"
        + size
        + b"\x85cnumpy\ndtype\nU"
        + bytes([len(code)])
        + code
        + b"K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        + raw
        + b"tb."
    )


@pytest.mark.parametrize(
    "content",
    [
        forged(1000, b"U\x08" + bytes(8)),
        forged(1000, b"]", b"O8"),
        forged(1, b"]"),
        forged(1, b"U\x08" + bytes(8), b"V8"),
        b"\x80\x02(dp",
        b"",
        b"\x80\x02cnumpy\nfromfile\n.",
    ],
)
def test_forged_arrays_and_torn_pickles_are_refused(tmp_path, content):
    """A shape larger than the contents would make numpy read memory that is not its own."""
    (tmp_path / "a.pkl").write_bytes(content)
    with pytest.raises(DataError, match="a.pkl: refused"):
        load_pickle(tmp_path / "a.pkl")


def test_the_forgery_is_refused_for_its_size_alone(tmp_path):
    (tmp_path / "a.pkl").write_bytes(forged(2, b"U\x10" + struct.pack("<2d", 1, 2)))
    assert load_pickle(tmp_path / "a.pkl").tolist() == [1, 2]


# ---------------------------------------------------------------- MATLAB


def element(kind, content, order="<"):
    if len(content) <= 4:
        return struct.pack(order + "I", len(content) << 16 | kind) + content.ljust(4, b"\0")
    return struct.pack(order + "II", kind, len(content)) + content + bytes(-len(content) % 8)


def mat(arrays, compressed=True, order="<", mat_class=9, stored=2):
    """A MAT v5 file by its published layout. arrays: {name: uint8 array}; class 9 = uint8, data
    type 2 = uint8.
    """
    out = (
        b"MATLAB 5.0 MAT-file, made by a test".ljust(124)
        + struct.pack(order + "H", 0x0100)
        + (b"IM" if order == "<" else b"MI")
    )
    for name, values in arrays.items():
        inner = (
            element(6, struct.pack(order + "II", mat_class, 0), order)
            + element(5, np.array(values.shape, order + "i4").tobytes(), order)
            + element(1, name.encode(), order)
            + element(
                stored, values.astype(order + _untrusted.NUMBERS[stored]).tobytes(order="F"), order
            )
        )
        whole = struct.pack(order + "II", 14, len(inner)) + inner
        packed = zlib.compress(whole)
        out += struct.pack(order + "II", 15, len(packed)) + packed if compressed else whole
    return out


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("compressed", [True, False])
def test_mat_array_by_name(tmp_path, compressed, order):
    values = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
    small = np.uint8([[7]])
    (tmp_path / "a.mat").write_bytes(
        mat({"other": small, "part_mask": values, "z": small}, compressed, order)
    )
    got = read_mat(tmp_path / "a.mat", "part_mask")
    assert got.shape == (3, 4, 5) and np.array_equal(got, values)
    assert read_mat(tmp_path / "a.mat", "z").tolist() == [[7]]


def test_mat_doubles_stored_as_doubles_or_shorter(tmp_path):
    values = np.float64([[1, 2, 3], [4, 5, 6]])
    for stored in (2, 9):
        (tmp_path / "a.mat").write_bytes(mat({"part_mask": values}, mat_class=6, stored=stored))
        assert read_mat(tmp_path / "a.mat", "part_mask").tolist() == values.tolist()


MASK = mat({"part_mask": np.ones((3, 4, 5), np.uint8)}, compressed=False)


@pytest.mark.parametrize(
    "content, word",
    [
        (mat({"else": np.ones((2, 2), np.uint8)}), "has no 'part_mask' .it has else"),
        (MASK[:-30], "damaged"),
        (b"x" * 200, "not a MATLAB 5"),
        (mat({"part_mask": np.ones((2, 2), np.uint8)}, mat_class=4), "not a real numeric"),
        (mat({"part_mask": np.ones((2, 2), np.uint8)})[:-6], "damaged"),
        (
            MASK.replace(
                np.array([3, 4, 5], "<i4").tobytes(), np.array([3, 4, 9], "<i4").tobytes()
            ),
            "60 values for the shape",
        ),
        (b"MATLAB 7.3 MAT-file".ljust(200), "save it with -v7"),
    ],
)
def test_bad_mat_is_named(tmp_path, content, word):
    (tmp_path / "a.mat").write_bytes(content)
    with pytest.raises(DataError, match=word):
        read_mat(tmp_path / "a.mat", "part_mask")


def test_a_mat_that_unpacks_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(_untrusted, "LARGEST_PICKLE", 100_000)
    (tmp_path / "a.mat").write_bytes(mat({"part_mask": np.zeros((100, 100, 100), np.uint8)}))
    with pytest.raises(DataError, match="too large"):
        read_mat(tmp_path / "a.mat", "part_mask")
