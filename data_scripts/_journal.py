"""The journal of a prepared folder lists what is in OUT already, so that any stop is harmless.

The first line of OUT/.NAME.jsonl says how OUT is made. Each other line is one finished picture.
"""

import csv
import io
import json
import tarfile
import textwrap
import zipfile
import zlib
from pathlib import Path

from ppad.files import BadPicture, DataError, write_error


def table_text(columns, rows):
    """A comma-separated table; floats get two decimals (hundredths of a pixel)."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(
        [f"{value:.2f}" if isinstance(value, float) else value for value in row] for row in rows
    )
    return text.getvalue()


def read_journal(path):
    """A journal's lines as dicts, without an incomplete last line; [] if there is no journal.

    The first must have a string "how", the others a string "file"; DataError otherwise.
    """
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [journal_entry(path, number, line) for number, line in enumerate(lines, 1)]


def journal_entry(path, number, line):
    key = "file" if number > 1 else "how"
    try:
        entry = json.loads(line)
        if isinstance(entry, dict) and isinstance(entry[key], str):
            return entry
    except (ValueError, KeyError):
        pass
    raise DataError(f"{path}: line {number} is damaged; restore the file, or give another OUT")


class Journal:
    """OUT/.NAME.jsonl: the first line says how OUT is made, then each picture has a line.

    If a picture has two lines, the later one counts. DataError if the journal has another `how`: a
    data set must not be prepared in two ways.
    """

    def __init__(self, out, name, how):
        self.path = out / f".{name}.jsonl"
        self.entries = {}
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_error(out, error) from error
        entries = read_journal(self.path)
        self._cut_torn_line()
        if not entries:
            self._append({"how": how})
        elif entries[0]["how"] != how:
            before = differing(entries[0]["how"], how)
            now = differing(how, entries[0]["how"])
            raise DataError(
                f"{out}: was begun with {before!r}, this command says {now!r}; give another OUT"
            )
        self.entries = {entry["file"]: entry for entry in entries[1:]}
        # pictures that were left out are tried again, if SOURCE still has them
        self.entries = {entry["file"]: entry for entry in self.usable()}

    def _cut_torn_line(self):
        """Drop a half-written last line, or the next line would be appended to it."""
        content = self.path.read_bytes() if self.path.exists() else b""
        length = content.rfind(b"\n") + 1
        if length < len(content):
            with open(self.path, "r+b") as file:
                file.truncate(length)

    def _append(self, entry):
        try:
            with open(self.path, "ab") as file:
                file.write(json.dumps(entry).encode() + b"\n")
        except OSError as error:
            raise write_error(self.path, error) from error

    def add(self, entry):
        self.entries[entry["file"]] = entry
        self._append(entry)

    def usable(self):
        """The entries of pictures that were not left out, sorted by file."""
        entries = [self.entries[file] for file in sorted(self.entries)]
        return [entry for entry in entries if "problem" not in entry]

    def done(self, file):
        """Whether a picture is in OUT. A picture that was left out does not count as done."""
        entry = self.entries.get(file, {"problem": "not there"})
        return "problem" not in entry and (self.path.parent / file).is_file()

    def check_source(self, offered):
        """DataError if OUT holds a picture that SOURCE lacks, or has with other content.

        Pictures that were left out do not count: they may have been deleted from SOURCE since.

        Args:
            offered: (file in OUT, size in SOURCE or None if the file is not a copy, path in SOURCE
                or load() -> bytes) of every picture in SOURCE.
        """
        unmatched = {entry["file"] for entry in self.usable()}
        if unmatched:
            print(f"pictures in OUT, compared with SOURCE now: {len(unmatched):,}", flush=True)
        for file, size, load in offered:
            if file in unmatched and (size is None or self._same(self.entries[file], size, load)):
                unmatched.remove(file)
        if unmatched:
            count = f"{len(unmatched):,} picture{'s' if len(unmatched) > 1 else ''}"
            raise DataError(
                f"{self.path.parent}: holds {count} that SOURCE lacks, or has with other "
                f"content, such as {min(unmatched)}: it was begun from another SOURCE; "
                "give another OUT"
            )

    def _same(self, entry, size, load):
        """Whether a picture in SOURCE still equals its copy, as far as both can be read."""
        path = self.path.parent / entry["file"]
        if not path.is_file():
            return True
        if path.stat().st_size != size:
            return False
        if "crc" not in entry:  # written by an earlier version
            return True
        content = loaded(load)
        # if SOURCE's file is unreadable now, OUT's copy is kept
        return isinstance(content, BadPicture) or zlib.crc32(content) == entry["crc"]


def differing(how, other):
    """The parts of `how` that `other` lacks, on one line; all of `how` if there are none."""
    parts = [part for part in how.split(", ") if part not in other.split(", ")]
    return textwrap.shorten(", ".join(parts) or how, 200)


def check_unclaimed(out, journals, files):
    """DataError if OUT holds one of `files` but none of the `journals`.

    Without a journal the files are not ours and must not be overwritten. journals: names.
    """
    if any((out / f".{name}.jsonl").exists() for name in journals):
        return
    for file in files:
        if (out / file).exists():
            raise not_ours(out / file)


def not_ours(path):
    return DataError(
        f"{path}: is there already, and no journal in OUT says that a script of ours made it; "
        "give another OUT, or move it away"
    )


def loaded(load):
    """The bytes at a path, or what load() returns, or a BadPicture with the reason."""
    try:
        return load.read_bytes() if isinstance(load, Path) else load()
    except (OSError, EOFError, RuntimeError, zlib.error) as error:
        return BadPicture(str(error))
    except (BadPicture, tarfile.TarError, zipfile.BadZipFile) as error:
        return BadPicture(str(error))
