"""The journal of a prepared folder: what is in OUT already, so that any stop is harmless.

OUT/.NAME.jsonl says on its first line how OUT is made, then on a line each which pictures are done.
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
    """A comma-separated table; numbers with two decimals, a hundredth of a pixel."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(
        [f"{value:.2f}" if isinstance(value, float) else value for value in row] for row in rows
    )
    return text.getvalue()


def read_journal(path):
    """The lines of a journal as dicts, without a last one that a stop tore; none where it is not.

    The first has the text "how", the others have the text "file"; DataError for one without.
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
    """OUT/.NAME.jsonl: a first line saying how OUT is made, then a line for each picture.

    Of two lines for one picture the later one counts. Opened with another `how`, a journal is
    refused: half a data set of each kind would be neither.
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
            there = differing(entries[0]["how"], how)
            here = differing(how, entries[0]["how"])
            raise DataError(
                f"{out}: was begun with {there!r}, this command says {here!r}; give another OUT"
            )
        self.entries = {entry["file"]: entry for entry in entries[1:]}
        # what was left out is tried again, if SOURCE still has it
        self.entries = {entry["file"]: entry for entry in self.usable()}

    def _cut_torn_line(self):
        """Else the next line would be written behind the half of one that a stop left."""
        content = self.path.read_bytes() if self.path.exists() else b""
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with open(self.path, "r+b") as file:
                file.truncate(whole)

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
        """The entries of pictures that were not left out, in order of name."""
        entries = [self.entries[file] for file in sorted(self.entries)]
        return [entry for entry in entries if "problem" not in entry]

    def done(self, file):
        """Whether a picture is in OUT; one left out is tried again, as SOURCE may be better now."""
        entry = self.entries.get(file, {"problem": "not there"})
        return "problem" not in entry and (self.path.parent / file).is_file()

    def check_source(self, offered):
        """DataError when OUT holds a picture that SOURCE has not, or has with other content.

        Pictures that were left out do not count: they may have been deleted from SOURCE since.

        Args:
            offered: (file in OUT, bytes in SOURCE, or None where it is not copied, path in SOURCE
                or load() -> bytes) of all that SOURCE has.
        """
        strange = {entry["file"] for entry in self.usable()}
        if strange:
            print(f"pictures in OUT, compared with SOURCE now: {len(strange):,}", flush=True)
        for file, size, load in offered:
            if file in strange and (size is None or self._same(self.entries[file], size, load)):
                strange.remove(file)
        if strange:
            count = f"{len(strange):,} picture{'s' if len(strange) > 1 else ''}"
            raise DataError(
                f"{self.path.parent}: holds {count} that SOURCE has not, or has with other "
                f"content, such as {min(strange)}: it was begun from another SOURCE; "
                "give another OUT"
            )

    def _same(self, entry, size, load):
        """Whether SOURCE has a picture as it was copied; all that can be compared is."""
        path = self.path.parent / entry["file"]
        if not path.is_file():
            return True
        if path.stat().st_size != size:
            return False
        if "crc" not in entry:  # of an earlier version
            return True
        content = loaded(load)
        # one that cannot be read any more is in OUT as it was
        return isinstance(content, BadPicture) or zlib.crc32(content) == entry["crc"]


def differing(how, other):
    """The parts of a `how` that `other` has not, on one line; all of it where there is none."""
    parts = [part for part in how.split(", ") if part not in other.split(", ")]
    return textwrap.shorten(", ".join(parts) or how, 200)


def check_unclaimed(out, journals, files):
    """DataError if OUT holds one of `files`, and no journal that says a script of ours made it.

    Somebody else's pictures and tables are not written over. journals: names, one of which will do.
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
    """The bytes of a path, or those that load() gives, or a BadPicture that says why not."""
    try:
        return load.read_bytes() if isinstance(load, Path) else load()
    except (OSError, EOFError, RuntimeError, zlib.error) as error:
        return BadPicture(str(error))
    except (BadPicture, tarfile.TarError, zipfile.BadZipFile) as error:
        return BadPicture(str(error))
