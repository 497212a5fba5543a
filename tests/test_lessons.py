"""The lessons: each runs alone in a new kernel, has the agreed form, and its checks find mistakes.

Wrong answers are in tests/wrong/lessons/lesson_NN.py, `WRONG = {"check": [(answer, words), ...]}`:
the check's message must contain the words.
"""

import contextlib
import copy
import importlib
import importlib.util
import inspect
import io
import json
import re
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import nbformat
import pytest
import torch
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parents[1]
LESSONS = ROOT / "lesson_notebooks"
WRONG_ANSWERS = ROOT / "tests" / "wrong" / "lessons"
sys.path.insert(0, str(LESSONS))

import lesson
import ways_in
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
DIAGRAMS = COURSE[:8]  # lessons that have one
MOST_LINES = 20  # of a code cell
MEAN_LINES = 10  # of a lesson's code cells
COURSE_LINES = 9  # of all code cells
COPIED_LINES = 6
MOST_BYTES = 700_000
MOST_FIGURES = 16
WIDEST = 120
# in "What you learned": a difference, the paper's face region, two that were printed with 3 digits
NOT_PRINTED = {"0.2", "1.6", "0.13", "0.63"}

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


def after_checks(notebook):
    """Code cells between a check and the next exercise or section."""
    found = []
    near = False
    for cell in notebook.cells:
        near = tag(cell) == "check" or near and tag(cell) != "exercise"
        if cell.cell_type == "markdown" and re.search(r"^## ", cell.source, re.M):
            near = False
        if near and cell.cell_type == "code" and not tag(cell):
            found.append(cell)
    return found


def checks_called(source):
    """The name of the check behind `name = check.name(name)`, which is all a check cell holds."""
    found = re.fullmatch(r"(\w+) = check\.(\w+)\((\w+)\)", source.strip())
    assert found and len(set(found.groups())) == 1, f"a check cell is x = check.x(x), not\n{source}"
    return f"check_{found.group(1)}"


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
    """And what follows a check once more, as after an exercise that was done when all had run."""
    notebook = read(name)
    notebook.cells += copy.deepcopy(after_checks(notebook))
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


def test_a_claim_fails_where_M_changes_nothing(monkeypatch):
    """Lesson 00, as far as its first claim about M."""
    players = lesson.players()

    class Same(torch.nn.Module):
        size = players.config.face_size

        def forward(self, faces):
            return faces

    players.modifier = Same()
    monkeypatch.setattr(lesson, "players", lambda: players)
    monkeypatch.setenv("PPAD_STATIC", "1")
    monkeypatch.chdir(LESSONS)
    monkeypatch.setattr(plt, "show", lambda: plt.close("all"))
    space = {"__name__": "__main__"}
    with pytest.raises(AssertionError) as caught:
        for cell in code_cells(read("00_welcome")):
            exec(compile(cell.source, "cell", "exec"), space)
    failed = caught.traceback[-1]
    assert "repainted" in cell.source.splitlines()[failed.lineno]


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
    way_in, code = (cell.source for cell in code_cells(notebook)[:2])
    assert way_in == ways_in.first_cell(), "run python lesson_notebooks/ways_in.py"
    assert (ways_in.BADGE in first.source) == bool(ways_in.ADDRESS)
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
def test_what_was_learned_has_the_numbers_that_were_printed(name):
    notebook = read(name)
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    printed = "\n".join(output.text for output in outputs if output.output_type == "stream")
    learned = notebook.cells[-1].source.partition("**What you learned**")[2]
    learned = re.sub(r"\]\(.*?\)|arXiv:\S+", "", learned.partition("**To read on:**")[0])
    numbers = set(re.findall(r"\d+\.\d+", learned)) - NOT_PRINTED
    missing = numbers - set(re.findall(r"\d+\.\d+", printed))
    assert not missing, f"{name} has learned what no cell printed: {sorted(missing)}"


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
        checked = checks_called(check.source).removeprefix("check_")
        stub = rf'(@\w+\n)?def {checked}\(.*\):\n    """.+"""\n    raise NotImplementedError.*'
        assert re.fullmatch(stub, exercise.source), f"{name}: no stub:\n{exercise.source}"
        about = task.source[task.source.index("### Exercise") :]
        assert re.search(r"^\*\d+ minutes, difficulty [123] of 3\.\*$", about, re.M), about
        assert "*Hint:*" in about, f"{name}: no hint:\n{about}"
        assert "<details>" in solution.source and "</details>" in solution.source
    count = len(places) // 3
    assert name[:2] in ("00", "08") or 2 <= count <= 5, f"{name} has {count} exercises"


def lengths(name):
    """Lines of each code cell, but for the one that all lessons begin with."""
    return [len(cell.source.splitlines()) for cell in code_cells(read(name))[1:]]


def test_cells_of_the_course_are_short_on_average():
    every = [lines for name in FOUND for lines in lengths(name)]
    assert sum(every) / len(every) <= COURSE_LINES


@each
def test_a_question_that_is_no_function_to_write(name):
    questions = [
        cell.source for cell in read(name).cells if "question" in cell.metadata.get("tags", [])
    ]
    assert questions, f"{name} has no cell with the tag question"
    for question in questions:
        assert re.match(r"### Question: .+\n\n\*\d+ minutes, difficulty [123] of 3\.\*\n", question)
        answer = question[question.index("<details><summary>Our answer</summary>") :]
        assert "A good answer" in answer, f"{name}: what does a good answer show?\n{answer}"


@each
def test_a_diagram_in_each_lesson(name):
    drawn = any("diagrams." in cell.source for cell in code_cells(read(name)))
    assert drawn or name not in DIAGRAMS


def test_the_badge_names_the_lesson():
    assert ways_in.badge("00_welcome", "") == ""
    link = "https://colab.research.google.com/github/me/it/blob/main/lesson_notebooks/00.ipynb"
    assert link in ways_in.badge("00", "https://github.com/me/it")
    assert "git clone --depth 1 https://github.com/me/it " in ways_in.first_cell(
        "https://github.com/me/it"
    )


def test_the_last_line_links_to_the_lessons_beside():
    titles = {"00_a": "00 · A", "01_b": "01 · B", "02_c": "02 · C"}
    course = "[The course](README.md)"
    assert ways_in.navigation("00_a", titles) == f"{course} · [01 · B →](01_b.ipynb)"
    assert ways_in.navigation("01_b", titles) == (
        f"[← 00 · A](00_a.ipynb) · {course} · [02 · C →](02_c.ipynb)"
    )
    assert ways_in.navigation("02_c", titles) == f"[← 01 · B](01_b.ipynb) · {course}"


@each
def test_ends_with_links_to_the_lessons_beside(name):
    last = [cell for cell in read(name).cells if cell.cell_type == "markdown"][-1].source
    line = ways_in.navigation(name, ways_in.titles())
    assert last.endswith(f"\n\n{line}"), "run python lesson_notebooks/ways_in.py"
    assert last.count(ways_in.COURSE) == 1
    for file in re.findall(r"\]\(([^)]+)\)", line):
        assert (LESSONS / file).is_file(), f"{name} links to {file}, which does not exist"


def test_ways_in_and_out_are_written_once_however_often(tmp_path):
    new = nbformat.v4
    for name, title in (("00_a", "# 00 · A"), ("01_b", "# 01 · B")):
        cells = [new.new_markdown_cell(f"{title}\n\nGoals."), new.new_markdown_cell("The end.")]
        nbformat.write(new.new_notebook(cells=cells), tmp_path / f"{name}.ipynb")
    path = tmp_path / "00_a.ipynb"
    ways_in.write(path)
    once = path.read_bytes()
    ways_in.write(path)
    assert path.read_bytes() == once
    ways_in.write(path, "https://github.com/me/it")
    assert ways_in.BADGE in path.read_text("utf-8")
    ways_in.write(path, "")
    assert path.read_bytes() == once
    first, way_in, last = nbformat.read(path, as_version=4).cells
    assert (first.source, way_in.source) == ("# 00 · A\n\nGoals.", ways_in.first_cell(""))
    assert last.source == "The end.\n\n[The course](README.md) · [01 · B →](01_b.ipynb)"


def test_a_lesson_opened_alone_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"upload .* course\.zip, .* run this cell again"):
        exec(ways_in.first_cell(""), {})
    (tmp_path / "course" / "lesson_notebooks").mkdir(parents=True)  # as unzip leaves it
    exec(ways_in.first_cell(""), {})
    assert Path.cwd() == tmp_path / "course" / "lesson_notebooks"


POSIX_ONLY = (
    r"^\s*[!%](?!system git)",  # a shell's command in a cell
    r"/tmp/|/dev/null|/home/",
    r"^\s*(export|source|sudo|apt|brew|ln|chmod|nohup) ",
    r"\\\n|\$\(",
    r"^\s*[A-Z_]+=\S* python",
    r"os\.(fork|getuid|symlink)|signal\.SIGKILL",
)


def posix_only_lines(text):
    return [
        line
        for line in text.splitlines()
        if any(re.search(pattern, line + "\n") for pattern in POSIX_ONLY)
    ]


@pytest.mark.parametrize("line", ["!ls data", "x = open('/tmp/x')", "OMP=1 python -m a", "a $(b)"])
def test_lines_that_windows_lacks_are_found(line):
    assert posix_only_lines(line) == [line]


def test_the_lowest_versions_are_those_of_requirements():
    admitted = (ROOT / "requirements.txt").read_text("utf-8").split()
    tried = (ROOT / "tests" / "lowest.txt").read_text("utf-8").splitlines()[1:]
    assert [line.replace("==", ">=") for line in tried] == [
        line + ".0" * (2 - line.count(".")) for line in admitted
    ]


@each
def test_no_cell_needs_a_posix_system(name):
    for cell in code_cells(read(name)):
        assert not posix_only_lines(cell.source), f"{name}: {posix_only_lines(cell.source)}"


@pytest.mark.parametrize("path", sorted(ROOT.glob("**/README.md")) + [LESSONS / "projects.md"])
def test_no_command_of_a_readme_needs_a_posix_system(path):
    blocks = re.findall(
        r"^```(?:bash|sh|console)?\n(.*?)^```", path.read_text("utf-8"), re.M | re.S
    )
    lines = [line for block in blocks for line in posix_only_lines(block)]
    assert not lines, f"{path}: {lines}"


@each
def test_cells_are_short_and_the_file_is_small(name):
    for lines, cell in zip(lengths(name), code_cells(read(name))[1:]):
        assert lines <= MOST_LINES, f"{name}: too long a cell\n{cell.source}"
    assert sum(lengths(name)) / len(lengths(name)) <= MEAN_LINES
    assert (LESSONS / f"{name}.ipynb").stat().st_size <= MOST_BYTES


@each
def test_stored_outputs_are_complete_and_clean(name):
    notebook = read(name)
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    assert all(cell.execution_count for cell in code_cells(notebook) if cell.source.strip()), (
        f"{name}: a cell was not run"
    )
    assert not noise(notebook) and not any(output.output_type == "error" for output in outputs)
    figures = [
        output for output in outputs if {"image/png", "image/jpeg"} & {*output.get("data", {})}
    ]
    assert len(figures) <= MOST_FIGURES
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
        for cell in code_cells(read(name))[1:]:
            text = bare(cell.source)
            if text:
                assert seen.setdefault(text, name) == name, (
                    f"{name} and {seen[text]} share a cell:\n{text}"
                )


# ------------------------------------------------------------------ their checks tell right from
# wrong


def tried(name, check_source, *answers):
    """Run answers, as a kernel would run one cell after another, then the check cell.

    Returns the printed text and the function that the notebook goes on with.
    """
    space = {"check": checks_of(name), "__name__": "__main__"}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for answer in answers:
            with contextlib.suppress(SyntaxError):  # the cell stops, what was there before stays
                exec(answer, space)
        exec(check_source, space)
    return printed.getvalue(), space[checks_called(check_source).removeprefix("check_")]


def ours(name, check_source):
    return getattr(checks_of(name), checks_called(check_source).replace("check_", "our_", 1))


@each
def test_a_solution_is_right_and_goes_on(name):
    for exercise, check, solution in exercises(read(name)):
        printed, kept = tried(name, check, exercise, solution)
        assert "Right." in printed, (
            f"{name}: {checks_called(check)} refuses its solution: {printed}"
        )
        assert kept is not ours(name, check)


@each
def test_what_was_not_written_is_not_right_and_ours_goes_on(name):
    """An untouched stub, our function, one with a SyntaxError, one with another name."""
    for exercise, check, solution in exercises(read(name)):
        function = checks_called(check).removeprefix("check_")
        imported = f"{function} = check.our_{function}"
        misspelt = solution.replace(f"def {function}(", f"def {function}_(")
        tries = {
            "not written yet": (exercise,),
            "is ours here": (imported,),
            "not written": (exercise, solution + "\n):\n"),
            "written yet": (exercise, misspelt),
            "ours here, not yours": (exercise, check, solution + "\n):\n"),
        }
        for words, cells in tries.items():
            printed, kept = tried(name, check, *cells)
            assert words in printed and "Right." not in printed, f"{name}, {function}: {printed}"
            assert kept is ours(name, check)
        with pytest.raises(NameError):  # in a new kernel there is nothing to check
            tried(name, check, misspelt)


@each
def test_a_cell_with_an_error_does_not_pass_with_the_answer_before_it(name):
    exercise, check, solution = exercises(read(name))[0]
    printed, _ = tried(name, check, solution, check, solution + "\n):\n")
    assert printed.count("Right.") == 1 and "was right before" in printed


@each
def test_a_wrong_answer_is_named_and_ours_goes_on(name):
    for called, answers in wrong_answers_of(name).items():
        function = called.removeprefix("check_")
        for answer, words in answers[:2]:
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                kept = getattr(checks_of(name), function)(answer)
            assert words.lower() in printed.getvalue().lower()
            assert "Right." not in printed.getvalue()
            assert kept is getattr(checks_of(name), f"our_{function}")


def test_a_list_does_where_a_tuple_is_asked():
    for name, function in (("06_the_game", "one_step"), ("07_judging_it", "strongest")):
        checks = checks_of(name)
        right = getattr(checks, f"our_{function}")
        getattr(checks, f"check_{function}")(lambda *inputs, right=right: list(right(*inputs)))


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
            with pytest.raises(Wrong) as caught:
                getattr(checks_of(name), check)(answer)
            assert words.lower() in str(caught.value).lower(), (
                f"{check} says {str(caught.value)!r}, without {words!r}"
            )


@each
def test_checks_answer_nonsense_with_a_message(name):
    """None, an exception, a wrong number of arguments, no function: Wrong, never a traceback."""

    def broken(*args, **kwargs):
        raise ZeroDivisionError("inside the student's function")

    for _, check, _ in exercises(read(name)):
        for answer in (lambda *args, **kwargs: None, broken, lambda: 0, None):
            with pytest.raises(Wrong):
                getattr(checks_of(name), checks_called(check))(answer)
