"""Safe readers for files from unknown sources: archives, Python-2 pickles, MATLAB files.

Data sets often come from unofficial mirrors. Each reader accepts one thing and refuses all else:

    open_source   the files of a folder, .zip, .tar, .tgz: read by name, never unpacked to disk
    load_pickle   numbers, text, plain containers, numpy arrays; DataError names any other type
    read_mat      one numeric array of a MATLAB 5 file (plain or compressed)

These files cannot run code, choose a path that is written to, or use memory without limit. Any
fault raises `DataError`: one sentence that names the file and the offending part.
"""

import gzip
import io
import math
import os
import pickle
import re
import struct
import tarfile
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path, PurePosixPath

import numpy as np

from ppad.files import DataError

LARGEST = 64 * 2**20  # ours: bytes of one archive member; real pictures are below 1 MB
TOTAL = 200 * 2**30  # ours: bytes of all members; the largest set here, CASIA, has 4 GB
MOST = 5_000_000  # ours: number of members; CASIA has half a million
# ours: bytes of a pickle, of a .mat file, and of what a .mat file unpacks to
LARGEST_PICKLE = 2 * 2**30


# ---------------------------------------------------------------- folders and archives


class _Bounded(io.BufferedIOBase):
    """A file whose read() returns at most LARGEST bytes: a forged header could claim any size."""

    def __init__(self, file, name):
        self.file = file
        self.name = name

    def read(self, size=-1):
        if not 0 <= size <= LARGEST:
            raise DataError(
                f"{self.name}: a header in it claims {size} bytes (at most {LARGEST} are allowed); "
                "download it again"
            )
        return self.file.read(size)

    def seek(self, *where):
        return self.file.seek(*where)

    def tell(self):
        return self.file.tell()

    def close(self):
        self.file.close()


def _check(archive, name, size, plain, seen):
    """DataError for a member that leads out of the archive, is a link or device, or is too large.

    plain: whether it is a file or folder. seen: [members, bytes] so far, updated here.
    """
    path = PurePosixPath(name)
    seen[0] += 1
    seen[1] += size
    fault = (
        "leads out of the archive"
        if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name
        else "is a link or a device"
        if not plain
        else f"claims {size} bytes (at most {LARGEST} are allowed)"
        if not 0 <= size <= LARGEST
        else "exceeds the allowed number or total size"
        if seen[0] > MOST or seen[1] > TOTAL
        else None
    )
    if fault:
        raise DataError(
            f"{archive}: its member {name!r} {fault}; nothing was read from it: "
            "download it from the official page"
        )


class _Zip:
    def __init__(self, path):
        self.archive = zipfile.ZipFile(path)
        seen = [0, 0]
        self.members = {}
        for info in self.archive.infolist():
            # Unix file type; 0 if another system made the archive
            kind = info.external_attr >> 28
            name = info.filename.replace("\\", "/")  # PowerShell's separator
            _check(path, name, info.file_size, kind in (0, 4, 8), seen)
            if not name.endswith("/"):
                self.members[name] = info

    def read(self, name):
        # zipfile stops at the checked size, then compares the CRC
        return self.archive.read(self.members[name])

    def size(self, name):
        return self.members[name].file_size


class _Tar:
    def __init__(self, path):
        with open(path, "rb") as file:
            gzipped = file.read(2) == b"\x1f\x8b"
        file = _Bounded(gzip.open(path) if gzipped else open(path, "rb"), path)
        self.archive = tarfile.open(fileobj=file, mode="r:")
        seen = [0, 0]
        self.members = {}
        for info in self.archive:
            _check(path, info.name, info.size, info.isfile() or info.isdir(), seen)
            if info.isfile():
                self.members[info.name] = info
        while file.read(2**20):  # to the end: gzip then compares its checksum
            pass

    def read(self, name):
        return self.archive.extractfile(self.members[name]).read()

    def size(self, name):
        return self.members[name].size


class _Folder:
    def __init__(self, path):
        self.path = path
        files = []
        for folder, folders, names in os.walk(path, onerror=_refuse, followlinks=True):
            folders[:] = [name for name in folders if not _hidden(name)]
            for file in (Path(folder, name) for name in names if not _hidden(name)):
                try:
                    file.stat()
                except OSError as error:
                    _refuse(error)
                files.append(file)
        self.members = {
            file.relative_to(path).as_posix(): None for file in sorted(files) if file.is_file()
        }

    def read(self, name):
        return (self.path / name).read_bytes()

    def size(self, name):
        return (self.path / name).stat().st_size


def _refuse(error):
    """Raise DataError for an unreadable folder or a broken or circular link."""
    raise DataError(
        f"{error.filename}: cannot be read ({error.strerror}); make it readable, "
        "or take it out of SOURCE"
    )


def _hidden(name):
    """Whether a part of a path is hidden or is Synology's folder for thumbnails."""
    return any(part.startswith((".", "@eaDir")) for part in PurePosixPath(name).parts)


def open_source(path):
    """Open a folder, .zip, .tar or .tgz.

    Returns an object with `members`, the paths of its files (without hidden ones and those in
    hidden folders, often thumbnails), `read(name)` -> bytes, `size(name)`. Members of an archive
    are in stored order, the fastest to read. DataError for any other path, and for an archive with
    any member that leads out of it, is a link, or is too large: nothing of such an archive is read.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: there is no such folder or archive; check SOURCE")
    kind = _Folder if path.is_dir() else _Zip if zipfile.is_zipfile(path) else _Tar
    try:
        source = kind(path)
        source.members = {name: info for name, info in source.members.items() if not _hidden(name)}
        for name in source.members:
            if name.encode(errors="replace").decode() != name:
                raise DataError(
                    f"{path}: the name {name!r} in it is not in UTF-8, as tables are; rename it, "
                    "or pack the archive again with such names"
                )
        return source
    except DataError:
        raise
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        gzip.BadGzipFile,
        ValueError,
        RuntimeError,
    ) as error:
        raise DataError(
            f"{path}: is not a complete .zip, .tar or .tgz ({error}); download it again, or unpack "
            "it if it is of another kind, and give the folder"
        ) from error


# ---------------------------------------------------------------- pickles


class _DType:
    """Replaces numpy.dtype in pickles: numpy's own accepts any state."""

    def __init__(self, code):
        if not re.fullmatch(r"[biufSUO]\d{0,4}", code):
            raise pickle.UnpicklingError(f"the array type {code!r}")
        self.code = code
        self.order = "|"

    def __setstate__(self, state):
        if state[1] not in ("<", ">", "|", "=") or any(state[2:5]):
            raise pickle.UnpicklingError("an array type with fields")
        self.order = state[1]

    def real(self):
        return np.dtype("O" if self.code[0] == "O" else self.order + self.code)


class _Array(np.ndarray):
    """A numpy array that compares its size with its contents: numpy's would read past the end."""

    def __setstate__(self, state):
        _, shape, dtype, fortran, raw = state
        dtype = dtype.real()
        count = math.prod(shape)
        raw = raw.encode("latin1") if isinstance(raw, str) else raw  # Python 2's str is bytes
        if (
            dtype.hasobject != isinstance(raw, list)
            or min(shape, default=0) < 0
            or len(raw) != count * (1 if dtype.hasobject else dtype.itemsize)
        ):
            raise pickle.UnpicklingError(
                f"an array of shape {shape} whose contents have another size"
            )
        super().__setstate__((1, tuple(shape), dtype, bool(fortran), raw))


def _dtype(code, align=False, copy=False):
    return _DType(code)


def _reconstruct(kind, shape, code):
    return np.ndarray.__new__(_Array, (0,), "b")  # empty: _Array.__setstate__ fills it


def _scalar(dtype, raw=b""):
    raw = raw.encode("latin1") if isinstance(raw, str) else raw
    dtype = dtype.real()
    if dtype.hasobject or len(raw) != dtype.itemsize:
        raise pickle.UnpicklingError("a numpy number of another size than its type")
    return np.frombuffer(raw, dtype)[0].item()


def _encode(text, codec):
    if codec not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"the codec {codec!r}")
    return text.encode("latin1")


def _no_bytes():
    return b""  # old protocols store Python 3's b"" as a call of bytes()


ADMITTED = {
    ("numpy", "dtype"): _dtype,
    ("numpy", "ndarray"): "ndarray",
    ("_codecs", "encode"): _encode,
    **{
        (module, name): build
        for module in ("numpy.core.multiarray", "numpy._core.multiarray")
        for name, build in (("_reconstruct", _reconstruct), ("scalar", _scalar))
    },
    **{
        (module, kind.__name__): kind
        for module in ("builtins", "__builtin__")
        for kind in (set, frozenset)
    },
    **{(module, "bytes"): _no_bytes for module in ("builtins", "__builtin__")},
    ("collections", "OrderedDict"): OrderedDict,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        if (module, name) not in ADMITTED:
            raise pickle.UnpicklingError(f"{module}.{name}")
        return ADMITTED[module, name]


def load_pickle(path):
    """The contents of a Python 2 or 3 pickle of plain containers, text, numbers and numpy arrays.

    Only the builders in ADMITTED can be called. DataError names anything else.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: there is no such file; check SOURCE")
    if path.stat().st_size > LARGEST_PICKLE:
        raise DataError(
            f"{path}: has more than {LARGEST_PICKLE} bytes; the official file is far smaller"
        )
    try:
        with open(path, "rb") as file:
            return _Unpickler(file, encoding="latin1").load()
    except Exception as error:  # a forged pickle can raise anything from inside the builders
        raise DataError(
            f"{path}: refused, nothing in it was run; the official file never holds this "
            f"({error}): download it from the official page"
        ) from error


# ---------------------------------------------------------------- MATLAB files

# MAT v5: codes of its data types, the two types that hold others, and the numeric classes
NUMBERS = dict(zip((1, 2, 3, 4, 5, 6, 7, 9, 12, 13), "i1 u1 i2 u2 i4 u4 f4 f8 i8 u8".split()))
MATRIX = 14
COMPRESSED = 15
NUMERIC_CLASSES = range(6, 16)  # double to uint64; the rest is text, cells, sparse


def _elements(data, order):
    """Yield the (type, bytes) elements in a part of a MAT file.

    Each starts with a tag (type and length); its data are padded to 8 bytes.
    """
    at = 0
    while at + 8 <= len(data):
        kind, length = struct.unpack_from(order + "II", data, at)
        small = kind >> 16  # a small element: length, type and up to 4 bytes of data in 8
        start, length = (at + 4, small) if small else (at + 8, length)
        kind &= 0xFFFF
        if start + length > len(data) or small > 4:
            raise ValueError("an element reaches past the end")
        yield kind, data[start : start + length]
        at = at + 8 if small else start + length + (0 if kind == COMPRESSED else -length % 8)


def read_mat(path, name):
    """The numeric array called `name` of a MAT v5 file (MATLAB's -v6 and -v7).

    It has MATLAB's shape and order of axes. DataError if the array is missing or not numeric, or
    the file is damaged or of the HDF5 form (-v7.3).
    """
    path = Path(path)
    if path.stat().st_size > LARGEST_PICKLE:
        raise DataError(
            f"{path}: has more than {LARGEST_PICKLE} bytes; the official file is far smaller"
        )
    data = path.read_bytes()
    if data[:19] == b"MATLAB 7.3 MAT-file" or data[:4] == b"\x89HDF":
        raise DataError(f"{path}: is a MATLAB 7.3 file; save it with -v7, or use JHMDB-GT.pkl")
    if len(data) < 128 or data[126:128] not in (b"IM", b"MI"):
        raise DataError(f"{path}: is not a MATLAB 5 file; download it again")
    order = "<" if data[126:128] == b"IM" else ">"
    names = []
    try:
        for kind, body in _elements(data[128:], order):
            if kind == COMPRESSED:
                decoder = zlib.decompressobj()
                body = decoder.decompress(body, LARGEST_PICKLE)
                if not decoder.eof:
                    raise ValueError("a compressed element is cut off or too large")
                ((kind, body),) = _elements(body, order)
            if kind != MATRIX:
                continue
            (_, flags), (_, shape), (_, label), *parts = _elements(body, order)
            if label.decode("latin1") == name:
                word = struct.unpack_from(order + "I", flags)[0]
                shape = np.frombuffer(shape, order + "i4").tolist()
                if (
                    word & 0xFF not in NUMERIC_CLASSES
                    or word & 0x800
                    or len(parts) != 1
                    or parts[0][0] not in NUMBERS
                ):
                    raise ValueError(f"{name} is not a real numeric array")
                # (H * W * T,), first axis fastest
                values = np.frombuffer(parts[0][1], order + NUMBERS[parts[0][0]])
                if min(shape) < 0 or math.prod(shape) != len(values):
                    raise ValueError(f"{name} has {len(values)} values for the shape {shape}")
                return values.reshape(shape, order="F")
            names.append(label.decode("latin1"))
    except (ValueError, struct.error, zlib.error) as error:
        raise DataError(f"{path}: is damaged ({error}); download it again") from error
    raise DataError(
        f"{path}: has no {name!r} (it has {', '.join(names) or 'nothing'}); use the official file"
    )
