"""Converts what a student hands in to Python: a notebook, or text in UTF-16.

`grading_child.py` uses it before it imports the file, and defines each function that only notebooks
have as a `StandIn`.
"""

import ast
import codecs
import json
import re

# Syntax of Jupyter, not of Python: %magic, !command, ?name; x = !command; name?.
COMMAND = re.compile(r"\s*([%!?]|[\w.,\[\] ]+=\s*[%!]|[\w.*]+\?\??\s*(#.*)?$)")
RUN_AS_PYTHON = {"%%time", "%%timeit", "%%capture"}  # other %% cells are dropped
ONLY_IN_JUPYTER = ("display", "get_ipython")  # functions of a cell without an import


class StandIn:
    """Accepts any call and does nothing: `display(x)`, `get_ipython().run_line_magic("...")`."""

    def __call__(self, *args, **kwargs):
        return self

    def __getattr__(self, name):
        return self


def python_of(data: bytes) -> tuple[bytes, list[str]]:
    """The Python code of a file, and notes on the conversion. ValueError: a broken notebook."""
    notes = []
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # PowerShell's >
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
    """A cell without Jupyter's syntax; rows keep their numbers.

    Only rows with a syntax error are removed, because "% x" can also continue an expression.
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
