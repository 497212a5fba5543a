"""Makes Python of what a student hands in: a notebook, or a text in another encoding than UTF-8.

Used by `grading_child.py` before it imports the file. There a `StandIn` is in the place of each
function that only a notebook has.
"""

import ast
import codecs
import json
import re

# What Jupyter understands and Python does not: %magic, !command, ?name; x = !command; name?.
COMMAND = re.compile(r"\s*([%!?]|[\w.,\[\] ]+=\s*[%!]|[\w.*]+\?\??\s*(#.*)?$)")
RUN_AS_PYTHON = {"%%time", "%%timeit", "%%capture"}  # all other %% cells are no code of the file
ONLY_IN_JUPYTER = ("display", "get_ipython")  # functions that a cell has without an import


class StandIn:
    """Does nothing, whatever it is asked: `display(x)`, `get_ipython().run_line_magic("...")`."""

    def __call__(self, *args, **kwargs):
        return self

    def __getattr__(self, name):
        return self


def python_of(data: bytes) -> tuple[bytes, list[str]]:
    """The Python in a file, and notes on what was done to it. ValueError: a broken notebook."""
    notes = []
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # as PowerShell's > writes
        data = data.decode("utf-16", errors="replace").encode()
        notes.append("the file was read as UTF-16, which Python does not import: save it as UTF-8")
    try:
        cells = [cell for cell in json.loads(data)["cells"] if cell["cell_type"] == "code"]
        sources = ["".join(cell["source"]) for cell in cells]
    except (ValueError, LookupError, TypeError, RecursionError):
        if data.lstrip().startswith(b"{") and b'"cell' in data:
            raise ValueError("it is no notebook that Jupyter can open (cut off?)") from None
        return data, notes
    notes.append("a notebook was handed in: all its code cells are graded as one file")
    return "\n\n".join(_python_cell(source) for source in sources).encode(), notes


def _python_cell(source: str) -> str:
    """A cell without what only Jupyter understands; rows keep their numbers.

    A row goes only if Python stumbles over it, because "% x" can also continue an expression.
    """
    first, *rest = source.lstrip().split("\n")
    if first.startswith("%%"):
        source = "\n".join(["", *rest]) if first.split()[0] in RUN_AS_PYTHON else ""
    rows = source.split("\n")
    while True:
        try:
            ast.parse("\n".join(rows))
            return "\n".join(rows)
        except SyntaxError as error:
            place = (error.lineno or 0) - 1
        except (ValueError, RecursionError, MemoryError):
            return "\n".join(rows)
        if not 0 <= place < len(rows) or not COMMAND.match(rows[place]):
            return "\n".join(rows)  # a mistake in the Python, which the import reports
        goes_on = rows[place].endswith("\\")
        indent = re.match(r"\s*", rows[place]).group()
        rows[place] = f"{indent}pass"
        while goes_on and place + 1 < len(rows):
            place += 1
            goes_on = rows[place].endswith("\\")
            rows[place] = ""
