"""The grader, on a small package made here whose grading takes a second.

The real components: test_grade_components.py.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import grading_checks
import grading_source
import pytest

from ppad import grade

ROOT = Path(__file__).resolve().parents[1]

SHAPES = '''"""Two functions (nothing of the paper)."""
import math
from dataclasses import dataclass

SIDES = 4   # ours


@dataclass
class Box:
    """width, height: px."""
    width: float = 1.0

    def __post_init__(self):
        if self.width < 0:
            raise ValueError("width")


def double(x, box=Box()):
    """Twice x."""
    return _times(x, 2)


# Helps double.
def _times(x, n):
    return x * n


# ---- areas

def area(width, height):
    return math.prod([width, height])
'''
TEST_SHAPES = """import pytest
from ppad.shapes import SIDES, area, double


@pytest.mark.rubric("doubles numbers", points=2, hint="times two, not squared")
@pytest.mark.parametrize("x", [2, 3])
def test_double(x):
    assert double(x) == x + x


@pytest.mark.rubric("area is width times height", points=3, hint="width * height")
def test_area():
    assert area(2, 5) == 10


@pytest.mark.rubric("area is width times height")
def test_area_of_a_line():
    assert area(2, 0) == 0


def test_without_a_mark():
    assert SIDES == 5
"""
GAME = """import pytest
from ppad.shapes import area, double


@pytest.mark.rubric("plays", points=5, hint="both together")
def test_game():
    assert double(area(1, 2)) == 4
"""
CONFTEST = """def pytest_configure(config):
    config.addinivalue_line("markers", "rubric: see ppad.grade")
"""
AREA = "def area(width, height): return width * height\n"
LIMITS = grade.Limits(seconds=60, test_seconds=2, game_seconds=1, memory=400 * grade.MB)


@pytest.fixture
def course(tmp_path):
    """A repository with a component, `shapes`, of 2 + 3 + 5 points, and a submissions folder."""
    root = tmp_path / "course"
    for name in ("ppad", "tests", "submissions"):
        (root / name).mkdir(parents=True)
    for name in ("__init__.py", "grade.py"):
        shutil.copyfile(ROOT / "ppad" / name, root / "ppad" / name)
    for path in (ROOT / "tests").glob("grading_[cs]*.py"):
        shutil.copyfile(path, root / "tests" / path.name)
    (root / "ppad" / "shapes.py").write_text(SHAPES)
    (root / "tests" / "conftest.py").write_text(CONFTEST)
    (root / "tests" / "test_shapes.py").write_text(TEST_SHAPES)
    (root / "tests" / "grading_game.py").write_text(GAME)
    return root


def hand_in(course, source, name="student.py"):
    path = course / "submissions" / name
    path.write_bytes(source if isinstance(source, bytes) else source.encode())
    return path


def files_of(folder):
    paths = [
        path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    ]
    return {path.relative_to(folder): path.read_bytes() for path in paths}


def command(course, *words):
    return subprocess.run(
        [sys.executable, "-m", "ppad.grade", *map(str, words)],
        cwd=course,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": "", "PYTHONDONTWRITEBYTECODE": "1"},
    )


def points(report):
    return [line.earned for line in report.lines]


# ---------------------------------------------------------------- the rubric and the points


def test_the_real_module_gets_full_points(course):
    report = grade.grade("shapes", course / "ppad" / "shapes.py", course)
    assert (report.points, report.out_of) == (10, 10)
    assert [(line.text, line.points, line.hint) for line in report.lines] == [
        ("doubles numbers", 2, "times two, not squared"),
        ("area is width times height", 3, "width * height"),
        ("plays", 5, "both together"),
    ]
    assert grade.components(course) == ["shapes"]


def test_a_line_needs_all_its_tests_and_the_miss_says_why(course):
    wrong = SHAPES.replace("x * n", "x ** n").replace("return math", "return 1 + math")
    report = grade.grade("shapes", hand_in(course, wrong), course)
    assert points(report) == [0, 0, 0]
    assert len(report.lines[0].reasons) == 1  # 2 ** 2 is right by chance
    assert report.lines[0].reasons[0].startswith("test_double[3]: assert 9 ==")
    assert [reason.partition(":")[0] for reason in report.lines[1].reasons] == [
        "test_area",
        "test_area_of_a_line",
    ]
    without = grade.grade("shapes", hand_in(course, SHAPES), course, game=False)
    assert (without.points, without.out_of) == (5, 5)


# ---------------------------------------------------------------- broken and hostile submissions

CRASH = "import ctypes\ndef double(x): ctypes.string_at(0)\n"
DELETE = (
    "import shutil, pathlib\ndef double(x):\n    here = pathlib.Path(__file__).parent\n"
    "    shutil.rmtree(here)\n    shutil.rmtree(here.parent, ignore_errors=True)\n"
    "    shutil.rmtree('.', ignore_errors=True)\n"
)
FORGE = """
import glob, json, os
for path in glob.glob('*.jsonl'):
    with open(path, 'a') as file:
        for test in ('test_shapes.py::test_double[2]', 'test_shapes.py::test_double[3]'):
            name = 'tests/' + test
            rows = ['', 'collected', [name], ''], ['', 'start', name, ''], ['', 'result', name, '']
            for row in rows:
                file.write(json.dumps(row) + '\\n')
        file.write(json.dumps(['', 'end', None, '']) + '\\n')
"""
# What `double` does, beside a good `area`, and words of the reason for its line. The game needs
# both.
IN_A_FUNCTION = {
    "endless loop": ("def double(x):\n    while True: pass\n", "took longer than 2 s"),
    "memory hog": (
        "def double(x):\n    held = []\n"
        "    while True: held.append(bytearray(b'x' * 10_000_000))\n",
        "memory",
    ),
    "one huge request": ("def double(x): return bytearray(10 ** 12)\n", "MemoryError"),
    "sys.exit": ("import sys\ndef double(x): sys.exit(0)\n", "SystemExit"),
    "os._exit": ("import os\ndef double(x): os._exit(0)\n", "ended (status 0"),
    "pytest.exit": (
        "import pytest\ndef double(x): pytest.exit('good', returncode=0)\n",
        "the tests were aborted",
    ),
    "pytest.skip": ("import pytest\ndef double(x): pytest.skip('good')\n", "counts as not passed"),
    "Ctrl-C": ("def double(x): raise KeyboardInterrupt\n", "ended (status"),
    "crash": (CRASH, "crashed"),
    "deletes its folder": (DELETE, "assert None =="),
    "fills the disk": (
        "def double(x):\n    with open('big', 'wb') as file:\n"
        "        for _ in range(400): file.write(bytes(2 ** 20))\n    return 2 * x\n",
        "too large",
    ),
    "deep journal": (
        "import glob\ndef double(x):\n    for path in glob.glob('*.jsonl'):\n"
        "        with open(path, 'a') as file: file.write('[' * 200_000 + '\\n')\n",
        "assert None ==",
    ),
    "wrong result": ("def double(x): return [x, x]\n", "assert [2, 2] =="),
    "wrong name": ("def twice(x): return 2 * x\n", "your file has no double"),
    "wrong signature": ("def double(): return 4\n", "TypeError"),
    "control characters": (
        "def double(x): raise ValueError('\\x00\\x1b[31m]]>\\ud800')\n",
        "ValueError",
    ),
}


@pytest.mark.parametrize("case", IN_A_FUNCTION)
def test_a_hostile_function_costs_its_own_line(course, case):
    source, words = IN_A_FUNCTION[case]
    path = hand_in(course, source + "SIDES = 4\nclass Box: pass\n" + AREA)
    before = files_of(course)
    report = grade.grade("shapes", path, course, LIMITS)
    assert points(report) == [0, 3, 0], [line.reasons for line in report.lines]
    assert words in report.lines[0].reasons[0]
    assert files_of(course) == before
    assert "Traceback" not in grade._table(report)
    ElementTree.fromstring(grade._junit([report]))
    if case == "endless loop":
        assert "took longer than 1 s" in report.lines[2].reasons[0]  # the game's own limit


AT_IMPORT = {
    "endless loop": ("while True: pass\n", "took longer than"),
    "sys.exit": ("import sys\nsys.exit(0)\n", "SystemExit"),
    "os._exit": ("import os\nos._exit(0)\n", "ended (status 0"),
    "deletes everything": (
        "import shutil\nshutil.rmtree('.', ignore_errors=True)\n",
        "tests could not use your file",
    ),
    "forged journal": (FORGE + "os._exit(0)\n", "ended (status 0"),
    "syntax error": ("def double(x:\n", "SyntaxError"),
    "not Python": (b"\x7fELF\x00\x01\x02\xff", "cannot be imported"),
    "Latin-1": ('"""gr\xfcn"""\n'.encode("latin-1") + SHAPES.encode(), "SyntaxError"),
    "empty": ("", "your file has no"),
    "missing package": ("import no_such_package\n", "No module named 'no_such_package'"),
}


@pytest.mark.parametrize("case", AT_IMPORT)
def test_a_file_that_cannot_be_imported_gets_0_and_is_told_why(course, case):
    source, words = AT_IMPORT[case]
    path = hand_in(course, source)
    before = files_of(course)
    report = grade.grade("shapes", path, course, LIMITS)
    assert report.points == 0 and words in " ".join(report.notes), report.notes
    assert all(line.reasons for line in report.lines)
    assert files_of(course) == before and "Traceback" not in grade._table(report)


# Ways to points without the work. Each must cost all points or be named to the instructor; where
# words are given, both.
STACK = """
import sys
frame = sys.{look}
while frame:
    for value in list(frame.f_locals.values()):
        if type(value).__name__ == "Journal":
            tests = ["test_double[2]", "test_double[3]", "test_area"]
            names = ["tests/test_shapes.py::" + test for test in tests]
            value.write("collected", names)
            for name in names:
                value.write("start", name)
                value.write("result", name)
            value.end()
    frame = frame.f_back
"""
ALWAYS_EQUAL = """
class Yes{base}:
    def __eq__(self, other): return True
def double(x): return Yes()
def area(a, b): return Yes()
"""
STRIP = """
import ast
from _pytest.assertion import rewrite
real = rewrite.rewrite_asserts
def strip(tree, *rest):
    for node in ast.walk(tree):
        if isinstance(getattr(node, "body", None), list):
            kept = [row for row in node.body if not isinstance(row, ast.Assert)]
            node.body = kept or ast.parse("pass").body
    real(ast.fix_missing_locations(tree), *rest)
rewrite.rewrite_asserts = strip
"""
NOTHING = "def double(x): return 0\ndef area(a, b): return 0\nSIDES = 4\nclass Box: pass\n"
CHEATS = {
    "real module by its path": (
        "import importlib.util as u\ns = u.spec_from_file_location('s', {real!r})\n"
        "m = u.module_from_spec(s)\ns.loader.exec_module(m)\nfrom s import *\n",
        "uses importlib.util",
        "read the solution",
    ),
    "real module through /proc": (
        "import os\nexec(open(f'/proc/{{os.getppid()}}/cwd/ppad/shapes.py').read())\n",
        "uses exec",
        "read the solution",
    ),
    "real module read in a try": (
        "try:\n    text = open({real!r}).read()\nexcept Exception:\n    text = ''\n" + SHAPES,
        "read the solution",
    ),
    "real module by a program": (
        "import os\nexec(os.popen('cat {real}').read())\n",
        "uses os.popen",
        "start a program",
    ),
    "the grader's process is stopped": (
        "import os\ntry:\n    os.kill(os.getppid(), 15)\nexcept Exception:\n    pass\n" + SHAPES,
        "stop another process",
    ),
    "the asserts of pytest": (STRIP + NOTHING, "rewrite_asserts", "no test counts"),
    "pytest runs no test": (
        "import _pytest.python as p\np.Function.runtest = lambda self: None\n" + NOTHING,
        "replaces p.Function.runtest",
        "no test counts",
    ),
    "pytest's raises": (
        "import contextlib, pytest\n"
        "pytest.raises = lambda *a, **k: contextlib.suppress(Exception)\n" + SHAPES,
        "replaces pytest.raises",
        "your file replaced pytest.raises",
    ),
    "a library without its name": (
        "m = __import__('ma' + 'th')\nsetattr(m, 'sq' + 'rt', lambda x: 3.0)\n" + SHAPES,
        "uses __import__",
        "your file replaced math.sqrt",
    ),
    "a value equal to everything": (ALWAYS_EQUAL.format(base=""), "uses __eq__", "Yes.__eq__"),
    "a number equal to everything": (
        ALWAYS_EQUAL.format(base="(float)"),
        "uses __eq__",
        "no test counts",
    ),
    "a library's value equal to everything": (
        "from unittest.mock import ANY\ndef double(x): return ANY\n" + AREA,
        "uses unittest.mock",
    ),
    "a library's value equal to everything, by a detour": (
        "from numpy.testing._private import utils\n"
        "def double(x): return utils.unittest.mock.ANY\n" + AREA,
        "uses utils.unittest",
    ),
    "an equality that is a type, in a class that claims another module": (
        "class Yes(float):\n    __module__ = 'numpy'\n    __eq__ = __lt__ = __gt__ = str\n"
        "def double(x): return Yes()\ndef area(a, b): return Yes()\n",
        "uses __eq__",
        "which decides what tests see as equal",
    ),
    "an equality that is no function": (
        "import functools, operator\n"
        "class Yes(int): __eq__ = functools.partialmethod(lambda a, b: True)\n"
        "def double(x): return Yes()\n" + AREA,
        "Yes.__eq__",
    ),
    "a class made without a class": (
        "def double(x): return type('Y', (int,), {'__e' + 'q__': lambda a, b: True})()\n" + AREA,
        "Y.__eq__",
    ),
    "the reporter on the stack": (
        STACK.replace("{look}", "_getframe()") + NOTHING,
        "uses sys._getframe",
        "own variables",
    ),
    "the reporter, hidden": (
        STACK.replace("sys.{look}", "getattr(sys, '_getf' + 'rame')()") + NOTHING,
        "uses frame.f_back",
        "own variables",
    ),
    "writes outside": ("open({outside!r}, 'w').write('x')\n" + SHAPES, "write outside its folder"),
    "writes outside in a try": (
        "try:\n    open({outside!r}, 'w').write('x')\nexcept Exception: pass\n" + SHAPES,
        "write outside its folder",
    ),
    "deletes outside": (
        "import os\ntry: os.remove({student!r})\nexcept Exception: pass\n" + SHAPES,
        "write outside its folder",
    ),
}


@pytest.mark.parametrize("case", CHEATS)
def test_cheating_costs_all_points_or_is_named_to_the_instructor(course, case):
    source, *words = CHEATS[case]
    real = str(course / "ppad" / "shapes.py")
    outside = course / "submissions" / "outside.txt"
    student = course / "submissions" / "student.py"
    for name, value in (("real", real), ("outside", str(outside)), ("student", str(student))):
        source = source.replace(f"{{{name}!r}}", repr(value)).replace(f"{{{name}}}", value)
    hand_in(course, source.replace("{{", "{").replace("}}", "}"))
    done = command(course, "shapes", student, "--json", "report.json")
    (report,) = json.loads((course / "report.json").read_text())
    notes = " ".join(note for note in report["notes"] if note.startswith("for the instructor"))
    for word in words:
        assert word in notes, done.stdout
    honest = SHAPES in source
    assert report["points"] == 0 or honest or "a library's value" in case, done.stdout
    assert not outside.exists() and student.is_file()


def test_honest_files_are_not_suspected(course):
    """What students write and the reference does not: other names, prints, own classes, main."""
    honest = """
import math
from dataclasses import dataclass
from functools import reduce

SIDES = 2 + 2


@dataclass
class Box:
    width: float = 1.0


class Helper:
    def __init__(self): self.cells = {}
    def __call__(self, x): return x + x


def double(x):
    print("doubling" * 10_000_000, x)
    helper = Helper()
    helper.cells[x] = setattr(helper, "last", x)
    return helper(x)


def area(width, height):
    return sum(width for _ in range(height))


if __name__ == "__main__":
    print(double(2), area(2, 3))
"""
    report = grade.grade("shapes", hand_in(course, honest), course, LIMITS)
    assert (report.points, report.notes) == (10, [])


def test_a_copy_with_other_names_is_named_and_another_solution_is_not():
    real = (ROOT / "ppad" / "losses.py").read_text(encoding="utf-8")
    copy = real.replace("previous", "last").replace("following", "new").replace("share", "part")
    copy = copy.replace("must be", "has to be").replace("_check_labels", "_look")
    copy = copy.replace("cosines: torch.Tensor", "cosines").replace("# ", "#  ")
    (note,) = grading_checks.notes_on(copy.encode(), real)
    assert "functions equal the reference but for names and texts" in note
    other = ROOT / "tests" / "wrong" / "losses" / "correct_variant.py"
    assert grading_checks.notes_on(other.read_bytes(), real) == []
    assert grading_checks.notes_on(b"def (", real) == []


def test_a_notebook_is_read_and_the_report_says_so(course):
    cells = [
        {"cell_type": "markdown", "source": ["# My *work*"]},
        {"cell_type": "code", "source": ["%matplotlib inline\n", "!ls\n", "import math"]},
        {"cell_type": "code", "source": SHAPES},
    ]
    path = hand_in(course, json.dumps({"cells": cells, "nbformat": 4}), "student.ipynb")
    report = grade.grade("shapes", path, course, LIMITS)
    assert report.points == 10 and "a notebook was handed in" in report.notes[0]


def notebook(*sources):
    cells = [{"cell_type": "code", "source": source} for source in sources]
    return json.dumps({"cells": cells, "nbformat": 4})


JUPYTER = """
if True:
    !ls -l \\
       elsewhere
    %matplotlib inline
files = !ls "don't
%cd (here
kept = (7
        % 4)
math?
double??  # its source
?area
"""


def test_what_only_jupyter_understands_costs_no_point(course):
    cells = [JUPYTER, "%%bash\nls (", "%%time\nSIDES = 4", "%timeit 1 + 1", "%%html\n<p>", SHAPES]
    student = hand_in(course, notebook(*cells) + "\n", "student.ipynb")
    report = grade.grade("shapes", student, course, LIMITS)
    assert report.points == 10, report.notes
    code, _ = grading_source.python_of(student.read_bytes())
    rows = code.decode().splitlines()
    assert rows[7:9] == ["kept = (7", "        % 4)"] and rows[6] == rows[9] == "pass"
    wrong, _ = grading_source.python_of(notebook("!ls\ndef double(x:\n!ls").encode())
    assert b"def double(x:" in wrong  # a mistake stays, for the import to report


def test_what_only_a_notebook_can_call_costs_no_point(course):
    calls = [
        'get_ipython().run_line_magic("matplotlib", "inline")',
        "from __future__ import annotations\nshell = get_ipython()\nshell.cache_size = 0",
        "for side in range(3):\n    display(side, metadata={})",
    ]
    student = hand_in(course, notebook(*calls[1:], SHAPES), "student.ipynb")
    assert grade.grade("shapes", student, course, LIMITS).points == 10
    exported = hand_in(course, f"{calls[0]}\n{SHAPES}")
    assert grade.grade("shapes", exported, course, LIMITS).points == 10
    wrong = hand_in(course, notebook(*calls[2:], SHAPES, "1 / 0"), "wrong.ipynb")
    assert "division by zero" in grade.grade("shapes", wrong, course, LIMITS).notes[-1]


def test_files_that_python_cannot_read_are_told_what_to_do(course):
    cut_off = notebook(SHAPES)[:-20]
    report = grade.grade("shapes", hand_in(course, cut_off, "cut.ipynb"), course, LIMITS)
    assert report.notes == [
        "your file cannot be imported: it is no notebook that Jupyter can open (cut off?)"
    ]
    report = grade.grade("shapes", hand_in(course, SHAPES.encode("utf-16")), course, LIMITS)
    assert report.points == 10 and "save it as UTF-8" in report.notes[0]
    report = grade.grade("shapes", hand_in(course, "\ndef double(x:\n"), course, LIMITS)
    assert report.notes[0].count("line 2") == 1 and report.notes[0].endswith("(shapes.py, line 2)")
    report = grade.grade("shapes", hand_in(course, "import sys\nsys.exit()\n"), course, LIMITS)
    assert report.notes == ["your file cannot be imported: SystemExit"]


def test_a_wrong_helper_costs_only_its_own_line(course):
    """Lines about other functions get the reference's in its place."""
    marked = TEST_SHAPES.replace('squared"', 'squared", helper="double"')
    (course / "tests" / "test_shapes.py").write_text(marked)
    uses = SHAPES.replace("math.prod([width, height])", "double(width) * height // 2")
    wrong = uses.replace("x * n", "x ** n + 1")
    report = grade.grade("shapes", hand_in(course, wrong), course)
    assert points(report) == [0, 3, 5]
    lost = grade.grade("shapes", hand_in(course, uses.replace("// 2", "")), course)
    assert points(lost) == [2, 0, 0]


def test_a_byte_order_mark_and_another_encoding_do_no_harm(course):
    for before in (b"\xef\xbb\xbf", '# coding: latin-1\nNAME = "gr\xfcn"\n'.encode("latin-1")):
        student = hand_in(course, before + SHAPES.encode())
        assert grade.grade("shapes", student, course, LIMITS).points == 10


def test_a_file_that_always_waits_for_a_processor_is_given_up_too(course, monkeypatch):
    monkeypatch.setattr(grade, "_seconds_waited", lambda pid: time.monotonic())
    monkeypatch.setattr(grade, "PATIENCE", 1)
    slow = hand_in(course, "def double(x):\n    while True: pass\n" + AREA)
    assert points(grade.grade("shapes", slow, course, LIMITS)) == [0, 3, 0]


def test_the_grader_gives_up_on_a_file_that_is_slow(course):
    dying = hand_in(course, "import os\ndef double(x): os._exit(1)\ndef area(a, b): os._exit(1)\n")
    report = grade.grade("shapes", dying, course)  # each line once, then it is over
    assert report.points == 0
    assert all("the process ended (status 1" in line.reasons[0] for line in report.lines)
    slow = hand_in(course, "def double(x):\n    while True: pass\n" + AREA)
    report = grade.grade("shapes", slow, course, grade.Limits(seconds=3))
    assert points(report) == [0, 0, 0]
    assert "for the whole file were over" in report.lines[0].reasons[0]
    assert "not reached" in report.lines[1].reasons[0]


def test_a_line_that_took_its_process_down_once_costs_one_process(course):
    """However many tests it has: what is left of the file is graded all the same."""
    many = TEST_SHAPES.replace("[2, 3]", "[*range(9, 1, -1)]")
    (course / "tests" / "test_shapes.py").write_text(many)
    student = hand_in(course, "import os\ndef double(x): os._exit(1) if x == 5 else None\n" + AREA)
    report = grade.grade("shapes", student, course)
    assert points(report) == [0, 3, 0]
    down, *_, left = report.lines[0].reasons
    assert "[5]: the process ended (status 1" in down and left.endswith(grade.SKIPPED)
    assert len(report.lines[0].reasons) == 8 and "assert" in report.lines[2].reasons[0]


def test_the_students_file_does_not_see_the_graders_environment(course, monkeypatch):
    monkeypatch.setenv("A_SECRET", "token")
    peek = (
        "import os, sys\nassert 'A_SECRET' not in os.environ and sys.stdin.read() == ''\n"
        "assert os.path.realpath(os.environ['HOME']).startswith(os.getcwd())\n"
    )
    assert grade.grade("shapes", hand_in(course, peek + SHAPES), course, LIMITS).points == 10


@pytest.mark.skipif(
    not hasattr(os, "killpg"),
    reason="a killed parent is noticed by its number, which Windows keeps",
)
def test_a_grader_killed_outright_leaves_no_child_at_work(course):
    source = (
        "import pathlib, time\nwhile True:\n    pathlib.Path('beat').write_text(str(time.time()))\n"
    )
    student = hand_in(course, source)
    (course / "temporary").mkdir()
    grader = subprocess.Popen(
        [sys.executable, "-m", "ppad.grade", "shapes", student],
        cwd=course,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": str(course / "temporary")},
    )
    for _ in range(300):
        beats = list(course.glob("temporary/*/beat"))
        if beats:
            break
        time.sleep(0.1)
    (beat,) = beats
    grader.kill()
    grader.wait()
    time.sleep(3)  # the child looks once a second
    last = beat.read_text()
    time.sleep(0.5)
    assert beat.read_text() == last


# ---------------------------------------------------------------- the command


@pytest.mark.parametrize(
    "words, sentence",
    [
        (("--json", "ann.py"), "a report is one of the files"),
        (("--json", "r.txt", "--junit", "./r.txt"), "a file is given twice"),
        (("--junit", "nowhere/r.xml"), "nowhere/r.xml: No such file"),
        (("--json", "submissions"), "submissions: Is a directory"),
        (("--junit", "submissions"), "submissions: Is a directory"),
        (("--out", "r.txt"), "--out goes with --starter"),
        (("--memory", "inf"), "--memory: invalid positive value: 'inf'"),
        (("--memory", "-5"), "--memory: invalid positive value: '-5'"),
        (("--seconds", "nan"), "--seconds: invalid positive value: 'nan'"),
        (("--test-seconds", "0"), "--test-seconds: invalid positive value: '0'"),
    ],
)
def test_a_wrong_flag_costs_no_student_a_point(course, words, sentence):
    student = hand_in(course, SHAPES, "ann.py")
    words = [str(student) if word == "ann.py" else word for word in words]
    done = command(course, "shapes", student, *words)
    assert done.returncode == 2 and sentence in done.stderr and "Traceback" not in done.stderr
    assert student.read_text() == SHAPES and not (course / "r.txt").exists()


def test_each_flag_sets_the_limit_that_it_names(tmp_path, monkeypatch):
    given = []

    def graded(component, path, limits, game):
        given.append(limits)
        return grade.Report(component, str(path), 0, 0, [], [], 0)

    monkeypatch.setattr(grade, "grade", graded)
    (tmp_path / "ann.py").write_text("")
    words = ["losses", str(tmp_path / "ann.py")]
    assert grade.main(words) == grade.main([*words, "--seconds", "9", "--memory", "7"]) == 0
    assert grade.main([*words, "--test-seconds", "8"]) == 0
    nine = grade.Limits(seconds=9, memory=7 * grade.MB)
    assert given == [grade.Limits(), nine, grade.Limits(test_seconds=8)]


def test_command_prints_points_and_writes_json_and_junit(course):
    good = hand_in(course, SHAPES, "ann.py")
    bad = hand_in(course, "def double(x): raise ValueError('\\x1b')\n" + AREA, "bob.py")
    done = command(course, "shapes", good, bad, "--json", "all.json", "--junit", "all.xml")
    assert done.returncode == 0 and done.stderr == ""
    assert "10 of 10 points" in done.stdout and "hint: times two, not squared" in done.stdout
    assert done.stdout.splitlines()[-1].split() == ["3", "/", "10", str(bad)]
    ann, bob = json.loads((course / "all.json").read_text())
    assert (ann["points"], bob["points"], bob["out_of"]) == (10, 3, 10)
    assert bob["lines"][0]["earned"] == 0
    assert bob["lines"][0]["hint"] and "ValueError" in bob["lines"][0]["reasons"][0]
    suites = ElementTree.parse(course / "all.xml").getroot()
    assert [(suite.get("tests"), suite.get("failures")) for suite in suites] == [
        ("3", "0"),
        ("3", "2"),
    ]
    assert command(course, "shapes", good, "--skip-game").stdout.startswith(
        f"shapes  {good}: 5 of 5 points"
    )


@pytest.mark.parametrize(
    "words, says",
    [
        (["shapes", "nobody.py"], "nobody.py is not there, or a folder: name .py and .ipynb files"),
        (["shapes", "submissions"], "submissions is not there, or a folder"),
        (["shapes", "--starter", "--json", "all.json"], "give --starter alone"),
        (["circles", "ppad/shapes.py"], "choose from"),
        (["shapes"], "name the file to grade"),
        ([], "usage"),
        (["shapes", "--starter", "--out", "no/where.py"], "no/where.py"),
        (["shapes", "ppad/shapes.py", "--starter"], "grades nothing"),
    ],
)
def test_a_users_mistake_is_status_2_and_one_sentence(course, words, says):
    done = command(course, *words)
    assert done.returncode == 2 and done.stdout == ""
    assert says in done.stderr and "Traceback" not in done.stderr


def test_command_writes_the_starter_and_never_over_a_students_work(course):
    done = command(course, "--starter", "shapes")
    assert done.returncode == 0 and "wrote shapes.py" in done.stdout
    assert (
        (course / "shapes.py").read_text()
        == grade.HEADER
        + '''"""Two functions (nothing of the paper)."""
from dataclasses import dataclass

SIDES = 4   # ours


@dataclass
class Box:
    """width, height: px."""
    width: float = 1.0

    def __post_init__(self):
        pass  # not written yet


def double(x, box=Box()):
    """Twice x."""
    raise NotImplementedError("not written yet: double")


# ---- areas

def area(width, height):
    raise NotImplementedError("not written yet: area")
'''
    )
    again = command(course, "--starter", "shapes")
    assert again.returncode == 2 and "exists" in again.stderr
    zero = command(course, "shapes", "shapes.py")
    assert zero.returncode == 0 and "0 of 10 points" in zero.stdout
    rows = zero.stdout.splitlines()
    assert rows[1].split() == ["0", "/", "2", "doubles", "numbers"]
    assert rows[2].strip() == "test_double[2]: not written yet: double (and 1 more)"  # no hint
    assert "Traceback" not in zero.stdout + zero.stderr


def test_no_hint_where_nothing_was_tried(course):
    empty = grade.grade("shapes", hand_in(course, ""), course, LIMITS)
    part = grade.grade("shapes", hand_in(course, "def double(x): return 2 * x\n"), course, LIMITS)
    for report in (empty, part):
        assert report.points < 10 and "your file has no area" in grade._table(report)
    assert "hint:" not in grade._table(empty) and "width * height" not in grade._table(part)
    slow = hand_in(course, "def double(x):\n    while True: pass\n" + AREA)
    table = grade._table(grade.grade("shapes", slow, course, grade.Limits(seconds=3)))
    assert table.count("not reached:") == 2 and table.count("hint:") == 1


def test_a_file_name_of_any_bytes_can_be_reported():
    """As a zip of Windows may give: Latin-1, and control characters."""
    line = grade.Line("line", 1, "hint", reasons=["test_a: failed"])
    report = grade.Report("shapes", "r\udce9mi\x1b\uffff.py", 0, 1, [line], [], 1.0)
    (suite,) = ElementTree.fromstring(grade._junit([report]))
    assert suite.get("name") == r"shapes r\udce9mi\x1b\uffff.py"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's full disk")
def test_a_report_on_a_full_disk_is_named(tmp_path, monkeypatch, capsys):
    student = tmp_path / "losses.py"
    student.touch()
    report = grade.Report("losses", str(student), 0, 1, [], [], 1.0)
    monkeypatch.setattr(grade, "grade", lambda *given, **more: report)
    assert grade.main(["losses", str(student), "--json", "/dev/full"]) == 2
    assert "error: a report: No space left on device" in capsys.readouterr().err


def test_an_untouched_starter_is_not_suspected():
    real = "class A:\n    def __init__(self):\n        self.a = 1\n"
    untouched = grade.starter(real)
    assert "not written yet: __init__" in untouched
    assert grading_checks.notes_on(untouched.encode(), real) == []
    (note,) = grading_checks.notes_on(b"a = 'not written yet: __globals__'", real)
    assert 'the text "__"' in note
