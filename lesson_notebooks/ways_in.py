"""The first cell and the badge of every lesson: how it is opened on a laptop, Colab or Kaggle.

    python lesson_notebooks/ways_in.py        # writes both into all lessons

ADDRESS is the one place that names the repository. While it is empty no lesson has a badge, and the
first cell of a lesson that was opened alone says what to do.
"""

import re
from pathlib import Path

import nbformat

ADDRESS = ""  # for instance "https://github.com/OWNER/NAME"
HERE = Path(__file__).resolve().parent
BADGE = "https://colab.research.google.com/assets/colab-badge.svg"

MISSING = 'raise FileNotFoundError("open this lesson in its folder, lesson_notebooks")'
FIRST_CELL = """\
# Finds the course's files, also on Colab and Kaggle, whose packages are enough.
import os

if not os.path.exists("lesson.py"):
    if not os.path.exists("course"):
        {action}
    os.chdir(os.path.join("course", "lesson_notebooks"))"""


def first_cell(address: str = ADDRESS) -> str:
    """Code that finds the lessons' folder, and fetches the course where it is not there."""
    action = "%system git clone --depth 1 {address} course" if address else MISSING
    return FIRST_CELL.format(action=action.format(address=address))


def badge(name: str, address: str = ADDRESS) -> str:
    """The "Open in Colab" line of a lesson, "" while there is no address."""
    if not address:
        return ""
    place = address.removeprefix("https://")
    link = f"https://colab.research.google.com/{place.replace('.com', '', 1)}"
    return f"[![Open in Colab]({BADGE})]({link}/blob/main/lesson_notebooks/{name}.ipynb)"


def write(path: Path, address: str = ADDRESS) -> None:
    """Put the badge into a lesson's first cell, and `first_cell` into its first code cell."""
    notebook = nbformat.read(path, as_version=4)
    top = notebook.cells[0]
    kept = re.sub(r"^\[!\[Open in Colab\].*\n+", "", top.source, flags=re.M)
    line = badge(path.stem, address)
    title, rest = kept.split("\n\n", 1)
    top.source = "\n\n".join([title, line, rest] if line else [title, rest])
    tagged = [cell for cell in notebook.cells if "way_in" in cell.metadata.get("tags", [])]
    if not tagged:
        tagged = [nbformat.v4.new_code_cell(metadata={"tags": ["way_in"]})]
        notebook.cells.insert(1, tagged[0])
    tagged[0].source = first_cell(address)
    nbformat.write(notebook, path)


if __name__ == "__main__":
    for lesson in sorted(HERE.glob("[0-9][0-9]_*.ipynb")):
        write(lesson)
