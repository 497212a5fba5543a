"""The lessons: each runs alone in a new kernel, has the agreed form, and its checks find mistakes.

Wrong answers are in tests/wrong/lessons/lesson_NN.py, `WRONG = {"check": [(answer, words), ...]}`:
the check's message must contain the words, and an answer is what the check cell passes to the
check (a tuple where it passes several).
"""

import contextlib
import importlib
import importlib.util
import inspect
import io
import json
import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parents[1]
LESSONS = ROOT / "lesson_notebooks"
WRONG_ANSWERS = ROOT / "tests" / "wrong" / "lessons"
sys.path.insert(0, str(LESSONS))

from lesson import Wrong

from ppad import trainer

COURSE = (
    "00_welcome",
    "01_the_data",
    "02_hand_made_anonymizers",
    "03_recognizing_people",
    "04_seeing_actions",
    "05_modifier_and_crop",
    "06_the_game",
    "07_judging_it",
    "08_your_own_pictures",
)
FOUND = sorted(path.stem for path in LESSONS.glob("[0-9][0-9]_*.ipynb"))
TAGS = ("exercise", "check", "solution")
MOST_LINES = 35  # of a code cell
COPIED_LINES = 6
MOST_BYTES = 600_000
MOST_FIGURES = 12
WIDEST = 120

each = pytest.mark.parametrize("name", FOUND)


def read(name):
    return nbformat.read(LESSONS / f"{name}.ipynb", as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tag(cell):
    """The one of TAGS that a cell carries, or None."""
    found = [name for name in cell.metadata.get("tags", []) if name in TAGS]
    assert len(found) <= 1, f"a cell has the tags {found}:\n{cell.source}"
    return found[0] if found else None


def exercises(notebook):
    """[(exercise, check, solution)]: sources of tagged cells, of a solution its Python block."""
    tagged = [cell for cell in notebook.cells if tag(cell)]
    triples = [tagged[i : i + 3] for i in range(0, len(tagged), 3)]
    return [
        (exercise.source, check.source, python_in(solution.source))
        for exercise, check, solution in triples
    ]


def python_in(markdown):
    blocks = re.findall(r"^```python\n(.*?)^```", markdown, re.M | re.S)
    assert len(blocks) == 1, (
        f"a solution needs one ```python block, this has {len(blocks)}:\n{markdown}"
    )
    return blocks[0]


def checks_called(source):
    names = re.findall(r"\bcheck\.(check_\w+)\(", source)
    assert len(names) == 1, f"a check cell calls one check, this calls {names}:\n{source}"
    return names[0]


def checks_of(name):
    return importlib.import_module(f"checks.lesson_{name[:2]}")


def wrong_answers_of(name):
    path = WRONG_ANSWERS / f"lesson_{name[:2]}.py"
    if not path.exists():
        return {}
    spec = importlib.util.spec_from_file_location(f"wrong_lesson_{name[:2]}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.WRONG


def files():
    """Files in the lessons' folder that a notebook may have written: all but code and notebooks."""
    return {
        path.relative_to(LESSONS)
        for path in LESSONS.rglob("*")
        if path.suffix not in (".py", ".pyc", ".ipynb")
        and not {"__pycache__", ".ipynb_checkpoints"} & set(path.parts)
    }


def test_the_course_is_complete():
    assert FOUND == list(COURSE), "a lesson is missing, or one too many"


# ------------------------------------------------------------------ they run


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """The name of a Jupyter kernel that runs this very Python; nothing is installed."""
    spec = {
        "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "language": "python",
        "display_name": "lesson",
        "env": {"PPAD_STATIC": "1"},
    }
    folder = tmp_path / "kernels" / "lesson"
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    return "lesson"


@each
def test_runs_alone_from_a_fresh_kernel(name, kernel):
    notebook = read(name)
    before = files()
    for cell in code_cells(notebook):
        cell.outputs = []
        cell.execution_count = None
    client = NotebookClient(
        notebook,
        timeout=600,
        kernel_name=kernel,  # started by the client, which also shuts it down at the end
        shutdown_kernel="immediate",
        resources={"metadata": {"path": str(LESSONS)}},
    )
    try:
        client.execute()
    except CellExecutionError as error:
        pytest.fail(
            f"{name} stops: {error.ename}: {error.evalue}\n{error.traceback}", pytrace=False
        )
    assert client.km is None, f"{name}'s kernel is still running"
    assert not noise(notebook), f"{name} prints to stderr: {noise(notebook)}"
    assert files() == before, f"{name} leaves files behind: {sorted(map(str, files() ^ before))}"


def noise(notebook):
    return [
        output.text
        for cell in code_cells(notebook)
        for output in cell.outputs
        if output.output_type == "stream" and output.name == "stderr"
    ]


# ------------------------------------------------------------------ they are built as agreed


@each
def test_opens_with_what_when_and_where(name):
    notebook = read(name)
    first = notebook.cells[0]
    code = code_cells(notebook)[0].source
    assert first.cell_type == "markdown" and first.source.startswith("# ")
    assert "what you will learn" in first.source.lower()
    assert re.search(r"\d+\s*(minutes|min\b)", first.source), (
        "the first cell says how many minutes it takes"
    )
    assert re.search(r"\bpaper\b", first.source, re.I), "the first cell names the paper's section"
    assert code.startswith("import lesson") and "lesson.start(" in code


@each
def test_ends_with_what_was_shown(name):
    headings = [
        line
        for cell in read(name).cells
        if cell.cell_type == "markdown"
        for line in cell.source.splitlines()
        if re.match(r"#{1,6} ", line)
    ]
    assert "what we have shown" in headings[-1].lower(), f"the last heading is {headings[-1]!r}"


@each
def test_exercise_check_and_solution_come_together(name):
    cells = read(name).cells
    places = [(place, tag(cell)) for place, cell in enumerate(cells) if tag(cell)]
    assert [kind for _, kind in places] == list(TAGS) * (len(places) // 3), (
        f"{name}: tagged cells are {places}"
    )
    for first, _ in places[::3]:
        task, exercise, check, solution = cells[first - 1 : first + 3]
        assert [tag(cell) for cell in (exercise, check, solution)] == list(TAGS), (
            f"{name}: cells between exercise and solution"
        )
        assert (task.cell_type, exercise.cell_type, check.cell_type, solution.cell_type) == (
            "markdown",
            "code",
            "code",
            "markdown",
        )
        assert "replace me" in exercise.source, f"{name}: {exercise.source}"
        assert "<details>" in solution.source and "</details>" in solution.source
    count = len(places) // 3
    assert name[:2] in ("00", "08") or 2 <= count <= 5, f"{name} has {count} exercises"


@each
def test_cells_are_short_and_the_file_is_small(name):
    notebook = read(name)
    for cell in code_cells(notebook):
        assert len(cell.source.splitlines()) <= MOST_LINES, (
            f"{name}: too long a cell\n{cell.source}"
        )
    assert (LESSONS / f"{name}.ipynb").stat().st_size <= MOST_BYTES


@each
def test_stored_outputs_are_complete_and_clean(name):
    notebook = read(name)
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    assert all(cell.execution_count for cell in code_cells(notebook) if cell.source.strip()), (
        f"{name}: a cell was not run"
    )
    assert not noise(notebook) and not any(output.output_type == "error" for output in outputs)
    assert sum("image/png" in output.get("data", {}) for output in outputs) <= MOST_FIGURES
    printed = "\n".join(output.text for output in outputs if output.output_type == "stream")
    plain = re.sub(r"\x1b\[\d*m", "", printed)
    wide = [line for line in plain.splitlines() if len(line) > WIDEST]
    assert not wide, f"{name}: a printed line is wider than {WIDEST} characters: {wide[0]!r}"
    assert str(ROOT) not in json.dumps(notebook), (
        f"{name} names a folder of the machine it was made on"
    )


def test_lesson_06_shows_the_loop_as_it_is_in_the_trainer():
    shown = "".join(
        output.text
        for cell in code_cells(read("06_the_game"))
        for output in cell.outputs
        if output.output_type == "stream"
    )
    source = inspect.getsource(trainer.play)
    assert source in shown, "trainer.play has changed: execute lesson 06 again and store its output"


def bare(source):
    """A cell without imports, comments and blank lines; "" if at most COPIED_LINES are left."""
    lines = [re.sub(r"\s+#.*", "", line).rstrip() for line in source.splitlines()]
    lines = [line for line in lines if line and not re.match(r"\s*(#|import |from )", line)]
    return "\n".join(lines) if len(lines) > COPIED_LINES else ""


def test_no_code_is_copied_between_lessons():
    seen = {}
    for name in FOUND:
        for cell in code_cells(read(name)):
            text = bare(cell.source)
            if text:
                assert seen.setdefault(text, name) == name, (
                    f"{name} and {seen[text]} share a cell:\n{text}"
                )


# ------------------------------------------------------------------ their checks tell right from
# wrong


def tried(name, check_source, answer_source):
    """Run an answer, then the check cell, in a namespace of their own; returns the printed text."""
    space = {"check": checks_of(name)}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(answer_source, space)
        exec(check_source, space)
    return printed.getvalue()


@each
def test_every_exercise_works_out_of_the_box_and_with_its_solution(name):
    for exercise, check, solution in exercises(read(name)):
        for kind, answer in (("exercise cell", exercise), ("solution", solution)):
            assert "Right." in tried(name, check, answer), (
                f"{name}: {checks_called(check)} does not accept the {kind}"
            )


@each
def test_a_solution_is_written_and_not_imported(name):
    for _, check, solution in exercises(read(name)):
        assert re.search(r"^(def|class) ", solution, re.M), (
            f"{name}: {checks_called(check)}'s solution defines nothing"
        )
        assert not re.search(r"\bchecks\b", solution), (
            f"{name}: {checks_called(check)}'s solution uses the checks"
        )


@each
def test_every_wrong_answer_is_explained(name):
    wrong = wrong_answers_of(name)
    called = {checks_called(check) for _, check, _ in exercises(read(name))}
    assert set(wrong) == called, (
        f"{name}: wrong answers for {sorted(wrong)}, exercises are {sorted(called)}"
    )
    for check, answers in wrong.items():
        assert len(answers) >= 2, f"{name}: {check} has {len(answers)} wrong answers"
        for answer, words in answers:
            arguments = answer if isinstance(answer, tuple) else (answer,)
            with pytest.raises(Wrong) as caught:
                getattr(checks_of(name), check)(*arguments)
            assert words.lower() in str(caught.value).lower(), (
                f"{check} says {str(caught.value)!r}, without {words!r}"
            )


@each
def test_checks_answer_nonsense_with_a_message(name):
    """None, an exception, a wrong number of arguments, no function: Wrong, never a traceback."""

    def broken(*args, **kwargs):
        raise ZeroDivisionError("inside the student's function")

    for _, check, _ in exercises(read(name)):
        called = checks_called(check)
        arguments = len(re.findall(r",", check[check.index(f"{called}(") :])) + 1
        for answer in (lambda *args, **kwargs: None, broken, lambda: 0, None):
            with pytest.raises(Wrong):
                getattr(checks_of(name), called)(*[answer] * arguments)
