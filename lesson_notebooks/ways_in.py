"""Each lesson's first cell, its badge, and the links at its end.

    python lesson_notebooks/ways_in.py        # writes them into all lessons

Only ADDRESS names the repository. While it is empty no lesson has a badge, and if a lesson is
opened without the repository, its first cell says what to do.
"""

import re
from pathlib import Path

import nbformat

ADDRESS = ""  # for instance "https://github.com/OWNER/NAME"
HERE = Path(__file__).resolve().parent
BADGE = "https://colab.research.google.com/assets/colab-badge.svg"
COURSE = "[The course](README.md)"

MISSING = """\
raise FileNotFoundError(
            "open this lesson in its folder, lesson_notebooks, or, on Colab, upload the repository "
            "as course.zip, run !unzip -q course.zip so that a folder named course appears, and "
            "run this cell again"
        )"""
FIRST_CELL = """\
# Finds the course's files, also on Colab and Kaggle, whose packages are enough.
import os

if not os.path.exists("lesson.py"):
    if not os.path.exists("course"):
        {action}
    os.chdir(os.path.join("course", "lesson_notebooks"))"""


def first_cell(address: str = ADDRESS) -> str:
    """Code that finds the lessons' folder, and fetches the course if it is missing."""
    action = "%system git clone --depth 1 {address} course" if address else MISSING
    return FIRST_CELL.format(action=action.format(address=address))


def badge(name: str, address: str = ADDRESS) -> str:
    """The "Open in Colab" line of a lesson; "" without an address."""
    if not address:
        return ""
    path = address.removeprefix("https://")
    link = f"https://colab.research.google.com/{path.replace('.com', '', 1)}"
    return f"[![Open in Colab]({BADGE})]({link}/blob/main/lesson_notebooks/{name}.ipynb)"


def titles(folder: Path = HERE) -> dict[str, str]:
    """{name: first line} of all lessons, in order, as {"00_welcome": "00 · Welcome"}."""
    lines = {}
    for path in sorted(folder.glob("[0-9][0-9]_*.ipynb")):
        top = nbformat.read(path, as_version=4).cells[0].source
        lines[path.stem] = top.splitlines()[0].removeprefix("# ")
    return lines


def navigation(name: str, titles: dict[str, str]) -> str:
    """The last line of a lesson: links to the previous lesson, the course and the next lesson."""
    names = list(titles)
    index = names.index(name)
    links = [f"[← {titles[other]}]({other}.ipynb)" for other in names[:index][-1:]]
    links.append(COURSE)
    links += [f"[{titles[other]} →]({other}.ipynb)" for other in names[index + 1 :][:1]]
    return " · ".join(links)


def write(path: Path, address: str = ADDRESS) -> None:
    """Write the badge, `first_cell` and `navigation` into a lesson, replacing the old ones."""
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
    end = [cell for cell in notebook.cells if cell.cell_type == "markdown"][-1]
    kept = [text for text in end.source.splitlines() if COURSE not in text]
    end.source = "\n".join(kept).rstrip()
    end.source += f"\n\n{navigation(path.stem, titles(path.parent))}"
    nbformat.write(notebook, path)


if __name__ == "__main__":
    for lesson in sorted(HERE.glob("[0-9][0-9]_*.ipynb")):
        write(lesson)
