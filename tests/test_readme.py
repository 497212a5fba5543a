"""The READMEs and model cards: links, names, commands and numbers are those of the repository.

python tests/test_readme.py --write      rewrite what is generated: result tables, preset values
"""

import argparse
import ast
import contextlib
import json
import re
import runpy
import shlex
import sys
from functools import cache
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # as a script, there is no conftest to do it

from ppad import config, crop_sampler, figures, loop, modifier, players, reproduce, ssh

README = ROOT / "README.md"
PACKAGE = ROOT / "ppad" / "README.md"
CARD = ROOT / "ppad" / "weights" / "modifier.md"
FACE_CARD = ROOT / "ppad" / "weights" / "ssh_light.md"
PROJECTS = ROOT / "lesson_notebooks" / "projects.md"
FOLDERS = ("ppad", "lesson_notebooks", "tests", "data_scripts")
READMES = [README, *(ROOT / folder / "README.md" for folder in FOLDERS)]
PAGES = [*READMES, CARD, FACE_CARD, PROJECTS]
RESULTS = ROOT / "lesson_notebooks" / "results"
COMPONENTS = (
    "modifier sphereface losses detector crop_sampler baselines metrics".split()
)  # import no module of ours
LONG_MODULES = ("toyworld", "config")  # up to 650 lines, the others 500
SUMMARY = ("own", "retrained", "strongest")  # the attackers in the README's table
# a title of the summary's columns, and the runs whose rows it shows: the first that has the row
DRAWN = ("drawn", "toy_seeds", "toy")
PHOTOS = ("photos", "photo")
SUMMARIES = {"summary": (DRAWN, PHOTOS), "photo_summary": (PHOTOS,)}
OTHER_FLAGS = {"--nproc-per-node", "--index-url"}  # torchrun's, pip's
MAPPED = [
    "Eq. (1)",
    "Eq. (2)",
    "Eq. (3)",
    "Eq. (4)",
    "Eq. (5)",
    *(f"Fig. {i}" for i in range(1, 7)),
    "Table 1",
    "Sec. 4, face detection: SSH [29]",
    "Sec. 4, face detection: MTCNN",
    "Sec. 4, face detection: SSH above 0.8",
    "Sec. 4, face modification",
    "Sec. 4, spatial action detection",
    "Sec. 4, face identity",
    "Sec. 4, aligned crops",
    "Sec. 4, training details",
    "Sec. 5.1",
    "Sec. 5.2",
    "Sec. 3.1, only the modification differs",
    "Sec. 5.5",
    "Sec. 5.6",
]

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.+?)^```", text, flags=re.DOTALL | re.MULTILINE)


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


# ---------------------------------------------------------------- what is generated


def reference(folder: str) -> dict | None:
    """results.json of the reference run in `folder`; None where there is none."""
    path = RESULTS / folder / "results.json"
    return json.loads(read(path)) if path.exists() else None


def result_block(folder: str) -> str:
    """Table 1 of a reference run and a line that says what made it; "not run" without one."""
    results = reference(folder)
    if results is None:
        return "not run\n"
    machine = results["hardware"]
    seeds = len(results["seeds"])
    place = machine.get("gpu") or f"CPU ({machine['cpu']}, {machine['cores']} cores)"
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    preset_fields = vars(config.PRESETS[results["preset"]])
    changed = [
        f"{name} {value}"
        for name, value in results["config"].items()
        if preset_fields.get(name, value) != value
        and name not in (*config.MACHINE, "faces", "actions")
    ]  # where things lay and ran changes no number
    line = (
        f"Preset {results['preset']}, {seeds} seed{'s' if seeds != 1 else ''}, "
        f"{results['minutes']:.0f} minutes on {place}, "
        f"{versions}{'; other than the preset: ' + ', '.join(changed) if changed else ''}"
    )
    return f"{figures.table1_markdown(results)}\n{line}\n"


def summary_block(*worlds: tuple) -> str:
    """One line an anonymizer: mAP and three errors in the runs of each world."""
    wanted = ["mAP", *(figures.ERRORS[key] for key in SUMMARY)]
    found = []  # of each world: row -> its cells
    for _, *folders in worlds:
        rows = {}
        for folder in folders:
            head, _, *lines = figures.table1_markdown(reference(folder)).splitlines()
            columns = [cells(head).index(name) for name in wanted]
            for line in map(cells, lines):
                rows.setdefault(line[0], [line[column] for column in columns])
        found.append(rows)
    none = ["–"] * len(wanted)
    titles = [f"{title}: {head}" for title, *_ in worlds for head in ("mAP", *SUMMARY)]
    table = [["Method", *titles], ["---", *["---:"] * len(titles)]]
    for name in dict.fromkeys(name for rows in found for name in rows):
        table.append([name, *(cell for rows in found for cell in rows.get(name, none))])
    return "".join(f"| {' | '.join(line)} |\n" for line in table)


def preset_row(line: str) -> str:
    """A row of the presets' table, whose first cell names fields, with their present values."""
    first = cells(line)[0]

    def column(preset):
        fields = config.PRESETS[preset]
        return re.sub(r"`(\w+)`", lambda found: value(getattr(fields, found[1])), first)

    def value(field):
        if isinstance(field, bool):
            return "yes" if field else "no"
        return f"{field:g}" if isinstance(field, float) else str(field)

    columns = map(column, ("quick", "toy", "photo", "paper"))
    return f"| {' | '.join([first, *columns])} |"


def rendered(text: str) -> str:
    """A page with every generated part made anew."""

    def block(found):
        name = found[1]
        made = summary_block(*SUMMARIES[name]) if name in SUMMARIES else result_block(name)
        return f"<!-- results:{name} -->\n{made}<!-- /results:{name} -->"

    text = re.sub(r"<!-- results:(\w+) -->\n.*?<!-- /results:\1 -->", block, text, flags=re.DOTALL)
    field = "|".join(vars(config.Paper()))
    return re.sub(
        rf"^\| `(?:{field})`.*\|$", lambda row: preset_row(row[0]), text, flags=re.MULTILINE
    )


@each_page
def test_generated_parts_are_up_to_date(page):
    assert rendered(read(page)) == read(page), "run: python tests/test_readme.py --write"


def test_generated_parts_are_where_they_belong():
    assert "<!-- results:summary -->\n| Method" in read(README)
    assert all(f"<!-- results:{name} -->\n| Method" in read(PACKAGE) for name in ("toy", "photo"))
    # rows of presets are recognized
    assert "| `face_size` | 64 | 64 | 128 | 256 |" in read(PACKAGE)
    assert "| Ours |" in read(CARD)


def test_the_summary_is_a_part_of_the_full_tables():
    """By hand: the values of results.json, rounded; and a row that only another run has."""
    lines = {line[0]: line for line in map(cells, summary_block(DRAWN, PHOTOS).splitlines())}
    for name in ("Masked", "Ours"):
        expected = []
        for folder in ("toy_seeds", "photo"):
            results = reference(folder)
            row = next(row for row in results["rows"] if row["name"] == name)
            for value in (row["mAP"], *(row["verification_error"][key] for key in SUMMARY)):
                spread = f" ± {100 * value['std']:.1f}" if len(results["seeds"]) > 1 else ""
                expected.append(f"{100 * value['mean']:.1f}{spread}")
        assert lines[name] == [name, *expected]
    assert lines["Ours"][4].startswith("41.6 ±") and lines["Ours"][-1] == "34.9 ± 0.5"
    assert lines["Ours(ascent)"][-4:] == ["–"] * 4 and lines["Ours(ascent)"][4] == "23.6"


def test_the_face_finders_card_says_what_was_measured():
    found = json.loads(read(ROOT / "tests/benchmarks/results/ssh_light.json"))
    rows = [
        [float(cell.strip(" %")) for cell in line.strip("|").split("|")]
        for line in re.findall(r"^\| 0\.\d.*\|$", read(FACE_CARD), re.MULTILINE)
    ]
    assert len(rows) == 4
    for score, *percent in rows:
        at = [found[place]["by_threshold"][f"{score:g}"] for place in ("stills", "lfw")]
        assert percent == [
            round(100 * one[key], 1) for one in at for key in ("recall", "precision")
        ]


def test_the_modifiers_card_says_how_its_own_seed_fared():
    results = reference("photo")
    row = next(row for row in results["rows"] if row["name"] == "Ours")
    per_seed = row["verification_error"]["strongest"]["per_seed"]
    erred = 100 * per_seed[results["seeds"].index(0)]
    sentence = f"this file is seed 0's, whose strongest attacker erred on {erred:.1f} %"
    assert sentence in " ".join(read(CARD).split())


def test_result_block_of_a_reference_run(tmp_path, monkeypatch):
    """By hand: one row, two seeds; and without a run, exactly "not run"."""
    monkeypatch.setattr(sys.modules[__name__], "RESULTS", tmp_path)
    assert result_block("toy") == "not run\n"
    one = {"mean": 0.5, "std": 0.01, "per_seed": [0.49, 0.51]}
    attackers = ("own", "never_saw", "other_architecture", "retrained", "strongest")
    errors = dict.fromkeys(attackers, one)
    row = {"name": "Ours", "mAP": one, "AP": {"Lip": 0.25}, "verification_error": errors}
    changed = {"T1": 7, "faces": "elsewhere", "device": "cpu", "an_older_field": 3}
    results = {
        "preset": "toy",
        "seeds": [0, 1],
        "minutes": 41.26,
        "hardware": {"cpu": "A chip", "cores": 2},
        "versions": {"python": "3.12", "torch": "2.6"},
        "config": {**vars(config.TOY), **changed},
        "rows": [row],
    }
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy/results.json").write_text(json.dumps(results))
    lines = result_block("toy").splitlines()
    assert lines[2].startswith("| Ours | 25.0 | 50.0 ± 1.0 | 50.0 ± 1.0 |")
    assert lines[-1] == (
        "Preset toy, 2 seeds, 41 minutes on CPU (A chip, 2 cores), python 3.12, torch 2.6; "
        "other than the preset: T1 7"
    )


def test_the_readme_claims_no_faster_run_than_the_one_measured():
    """One command with its default rows and one seed, alone on two cores."""
    measured = json.loads(read(ROOT / "tests/benchmarks/results/minutes_toy.json"))
    assert measured["minutes_by_row"].keys() == {*reproduce.ROWS}
    assert (len(measured["seeds"]), measured["hardware"]["cores"]) == (1, 2)
    claimed = re.search(r"about (\d+) minutes on two CPU cores", read(README))
    assert int(claimed[1]) >= measured["minutes"]


# ---------------------------------------------------------------- names


@cache
def names_in(path: Path) -> set[str]:
    """What a file defines: functions, classes, constants; methods and fields as Class.name."""

    def of(body):
        for node in body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                yield node.name
                if isinstance(node, ast.ClassDef):
                    yield from (f"{node.name}.{name}" for name in of(node.body))
            elif isinstance(node, (ast.Assign, ast.AnnAssign)):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                yield from (target.id for target in targets if isinstance(target, ast.Name))

    return set(of(ast.parse(read(path)).body))


def lacking(text: str) -> list[str]:
    """References `ppad/x.py:name`, `tests/x.py::name`, `folder/x.py` that lead nowhere."""
    found = re.findall(r"`((?:ppad|tests)/\w+\.py)(:{1,2})([\w.]+)`", text)
    bad = [
        f"{file}{colons}{name}"
        for file, colons, name in found
        if not (ROOT / file).exists()
        or name not in names_in(ROOT / file)
        or (len(colons) == 2) != file.startswith("tests")
    ]
    files = re.findall(rf"`((?:{'|'.join(FOLDERS)})/[a-z0-9_/]+\.(?:py|json|ipynb))`", text)
    return bad + [file for file in files if not (ROOT / file).exists()]


@each_page
def test_every_name_exists(page):
    assert lacking(read(page)) == []


def test_a_name_that_does_not_exist_is_noticed():
    """Also one with a typing mistake in its form, which must not pass for prose."""
    right = (
        "`ppad/losses.py:loss_det`, `tests/test_losses.py::test_equation_1`, "
        "`ppad/config.py:Paper.T1`, `tests/test_losses.py`"
    )
    wrong = (
        "`ppad/losses.py:loss_dot`, `ppad/none.py:x`, `ppad/trainer.py:Game.x`, "
        "`tests/test_losses.py:psi`, `ppad/none.py`"
    )
    assert lacking(right) == []
    assert len(lacking(wrong)) == 5


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folders_readme_is_its_index(folder):
    """Every module, script, notebook and benchmark has its place in the README beside it."""
    text = read(ROOT / folder / "README.md")
    files = [
        *(ROOT / folder).glob("[a-z]*.py"),
        *(ROOT / folder).glob("*.ipynb"),
        *(ROOT / folder).glob("benchmarks/*.py"),
    ]
    if folder == "tests":  # test_MODULE.py is said once for all
        files = [file for file in files if not file.name.startswith("test_")]
    for file in files:
        name = file.stem if folder == "ppad" else file.name
        assert f"`{name}`" in text or f"]({name})" in text, name


def test_algorithm_1_in_the_readme_names_methods_of_the_game():
    table = [cells(line) for line in read(README).splitlines() if re.match(r"\| \d", line)]
    methods = [name for *_, name in table if name.startswith("`Game.")]
    assert len(methods) == 4
    assert {name.strip("`") for name in methods} <= names_in(ROOT / "ppad" / "trainer.py")


def test_paper_map_is_whole():
    table = read(PACKAGE).split("<!-- map -->")[1].split("<!-- /map -->")[0].strip()
    rows = [cells(line) for line in table.splitlines()[2:]]
    assert all(len(row) == 5 and all(row) for row in rows)
    for wanted in MAPPED:
        assert any(row[0].startswith(wanted) for row in rows), wanted
    lines = sorted(
        int(number)
        for row in rows
        if row[0].startswith("Algorithm 1")
        for number in re.findall(r"\b\d+\b", row[0][11:])
    )
    assert lines == list(range(1, 12))
    notebook = r"\[(\d\d)\]\(\.\./lesson_notebooks/\1_\w+\.ipynb\)"
    for paper, code, test, lesson, why in rows:
        assert lesson == "-" or re.fullmatch(notebook, lesson), (paper, lesson)
        if code == "-":  # nothing to run: the row must say why
            assert test == "-" and paper.startswith(("Fig. 1", "Sec. 5.5")) and len(why) > 10
        else:
            for cell, form in ((code, r"`ppad/\w+\.py:[\w.]+`"), (test, r"`tests/\w+\.py::\w+`")):
                assert all(re.fullmatch(form, part) for part in cell.split(", ")), (paper, cell)
                assert lacking(cell) == [], paper


# ---------------------------------------------------------------- modules and layers


def modules() -> list[Path]:
    return [path for path in (ROOT / "ppad").glob("*.py") if path.stem != "__init__"]


def imported_by(path: Path) -> list[str]:
    """The modules of ours that a file imports, wherever in it."""
    found = []
    for node in ast.walk(ast.parse(read(path))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ppad":
            inside = [node.module[5:]] if "." in node.module else []
            found += inside or [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [alias.name[5:] for alias in node.names if alias.name.startswith("ppad.")]
    return found


def test_imports_follow_the_layers():
    """Every module has its line; imports lead down, or to an earlier line of the same layer."""
    listed = re.findall(r"^\| ([1-4]) \| `(\w+)` \| .+ \|$", read(PACKAGE), flags=re.MULTILINE)
    layer = {name: int(number) for number, name in listed}
    order = [name for _, name in listed]
    assert sorted(order) == sorted(path.stem for path in modules())
    for path in modules():
        name = path.stem
        for other in imported_by(path):
            if layer[name] == 1:
                allowed = other == "files" and name not in COMPONENTS
            else:
                earlier = order.index(other) < order.index(name)
                allowed = layer[other] < layer[name] or layer[other] == layer[name] and earlier
            assert allowed, f"{name} imports {other}"


def test_the_package_stays_small():
    assert len(modules()) <= 30
    for path in modules():
        limit = 650 if path.stem in LONG_MODULES else 500
        assert len(read(path).splitlines()) <= limit, path.name


# ---------------------------------------------------------------- form, links and commands


def test_a_step_of_the_game_makes_few_calls(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "benchmarks"))
    import count_calls

    parts = [count_calls.summary(calls) for calls in count_calls.calls_of_a_step()]
    assert sum(part["calls"] for part in parts) <= count_calls.MOST_CALLS == 90
    assert sum(part["changes_of_file"] for part in parts) <= count_calls.MOST_CHANGES == 25


def test_the_readme_is_short():
    assert len(read(README).splitlines()) <= 150


@each_page
def test_prose_is_wrapped(page):
    prose = re.sub(r"^```.+?^```", "", read(page), flags=re.DOTALL | re.MULTILINE)
    for line in prose.splitlines():
        generated = " minutes on " in line  # the line below a table of results
        assert len(line) <= 100 or line.startswith(("|", "![")) or generated, line


def heading_anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@cache
def anchors(page: Path) -> set[str]:
    return {heading_anchor(heading) for heading in re.findall(r"^#+ (.+)$", read(page), re.M)}


@each_page
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", read(page)):
        if link.startswith(("http://", "https://")):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.is_relative_to(ROOT) and target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def commands(text: str) -> list[list[str]]:
    """The words of each command: lines of shell blocks, and of code spans that start one."""
    lines = [line for block in blocks(text, "bash") for line in block.splitlines()]
    lines += re.findall(r"`((?:python|torchrun|jupyter|pip) [^`]+)`", text)
    return [
        words
        for line in lines
        for part in line.split("&&")
        if (words := shlex.split(part, comments=True))
    ]


class Stopped(BaseException):
    """A program has built its parser and is about to parse."""


@cache
def parser_of(*program: str) -> argparse.ArgumentParser:
    """The parser that a program makes: ("-m", module) or (script,), which is stopped there."""

    def stop(self, *args, **kwargs):
        raise Stopped(self)

    folder = str(Path(program[0]).resolve().parent)  # scripts import what lies beside them
    with (
        mock.patch.object(argparse.ArgumentParser, "parse_args", stop),
        mock.patch.object(argparse.ArgumentParser, "parse_known_args", stop),
        mock.patch.object(sys, "argv", [program[-1]]),
        mock.patch.object(sys, "path", [*([folder] if len(program) == 1 else []), *sys.path]),
        contextlib.suppress(SystemExit),
    ):
        try:
            if program[0] == "-m":
                runpy.run_module(program[1], run_name="__main__")
            else:
                runpy.run_path(str(ROOT / program[0]), run_name="__main__")
        except Stopped as stopped:
            return stopped.args[0]
    raise AssertionError(f"{' '.join(program)} parses no command line")


def check_command(words: list[str]) -> None:
    """Raise AssertionError or SystemExit for a command that cannot be given."""
    while words and re.fullmatch(r"PPAD_[A-Z_]+=\S+", words[0]):
        words = words[1:]
    if words[0] == "torchrun":
        words = ["python", *words[words.index("-m") :]]
    if words[:2] == ["jupyter", "lab"] or words[:3] == ["python", "-m", "pytest"]:
        files = [word for word in words[2:] if not word.startswith("-") and word != "pytest"]
        assert files and all((ROOT / word).exists() for word in files), words
    elif words[:2] == ["python", "tests/test_readme.py"]:
        assert words[2:] == ["--write"], words
    elif words[0] == "python":
        size = 2 if words[1] == "-m" else 1
        program = tuple(words[1 : 1 + size])
        module = ROOT / (program[1].replace(".", "/") + ".py" if size == 2 else program[0])
        assert module.is_file(), words
        if program == ("-m", "ppad.reproduce"):
            reproduce.parse(words[3:])  # it checks the values of the fields, too
        else:
            parser = parser_of(*program)
            if len(words) > 1 + size:  # prose may name a program without its arguments
                parser.parse_args(words[1 + size :])
    else:
        assert words[:2] == ["pip", "install"] or words[0] in ("ruff", ".ci/run"), words


@each_page
@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_every_command_parses(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    for words in commands(read(page)):
        check_command(words)


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize(
    "command",
    [
        "python -m ppad.reproduce --no_such_flag 1",
        "python -m ppad.reproduce --rows Nobody",
        "python -m ppad.reproduce --folds 1",
        "python -m ppad.anonymize a.jpg --method wash",
        "python data_scripts/prepare_lfw.py downloads/lfw.tgz",
        "python data_scripts/prepare_nothing.py a b",
        "python -m pytest -q tests/test_nothing.py",
        "pipx install ppad",
    ],
)
def test_a_command_that_cannot_be_given_is_noticed(command, capsys):
    with pytest.raises((AssertionError, SystemExit, ValueError)):
        check_command(shlex.split(command))


def test_the_two_commands_are_those_of_the_checks():
    """`.ci/run` installs from the same file and runs the README's test command, in two stages."""
    checks = read(ROOT / ".ci/run")
    first, second = (block.strip() for block in blocks(read(README), "bash")[:2])
    assert first == "pip install -r requirements.txt && python -m ppad.reproduce"
    assert second == "python -m pytest -q tests"
    assert re.search(r"^pip install (--quiet )?-r requirements\.txt$", checks, flags=re.MULTILINE)
    stages = [line for line in checks.splitlines() if line.startswith(second)]
    assert stages == [f"{second} --ignore=tests/test_lessons.py", f"{second}/test_lessons.py"]
    assert re.search(r'ruff"? check \.', checks) and re.search(r'ruff"? format --check \.', checks)
    assert ".ci/run" in read(ROOT / ".github/workflows/ci.yml")


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@each_page
def test_flags_in_prose_exist(page, monkeypatch):
    """Every `--flag` belongs to a program of this repository."""
    monkeypatch.chdir(ROOT)
    programs = [("-m", f"ppad.{name}") for name in ("reproduce", "anonymize", "grade")]
    programs += [
        (path.relative_to(ROOT).as_posix(),)
        for folder in ("data_scripts", "tests/benchmarks")
        for path in (ROOT / folder).glob("[a-z]*.py")
    ]
    known = set(OTHER_FLAGS)
    for program in programs:
        known |= set(parser_of(*program)._option_string_actions)
    text = read(page).replace("python tests/test_readme.py --write", "")
    text = text.replace("`--write`", "").replace("ruff format --check", "")
    assert set(re.findall(r"(?<![\w-])--[a-zA-Z][\w-]*", text)) <= known


def test_own_picture_lines_run(tiny, tmp_path, monkeypatch):
    """The Python block, on a tiny untrained M and a finder that knows where the face is."""
    (block,) = blocks(read(PACKAGE), "python")
    (tmp_path / "runs/photo").mkdir(parents=True)
    torch.manual_seed(0)
    parts = {"modifier": players.make_modifier(tiny()).state_dict()}
    loop.save_players(tmp_path / "runs/photo/players.pt", vars(tiny()), parts)
    before = np.full((60, 80, 3), 90, np.uint8)
    Image.fromarray(before).save(tmp_path / "holiday.jpg")

    class Finder:
        def __init__(self, rule):
            assert rule in ssh.RULES

        def find(self, frames):
            return [{"boxes": torch.tensor([[30.0, 20.0, 50.0, 40.0]] * 2)} for _ in frames]

    results = []

    def repaint_one(frame, boxes, modifier, repaint=crop_sampler.repaint):
        assert len(boxes) == len(boxes[0]) == 1  # each from what was made of the faces before
        assert not results or frame is results[-1]
        results.append(repaint(frame, boxes, modifier))
        return results[-1]

    monkeypatch.setattr(crop_sampler, "repaint", repaint_one)
    monkeypatch.setattr(ssh, "FaceFinder", Finder)
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {})
    original = np.asarray(Image.open("holiday.jpg")).astype(int)
    with Image.open(tmp_path / "holiday_anonymized.png") as saved:
        changed = (np.asarray(saved).astype(int) != original).any(2)
    inside = np.zeros_like(changed)
    inside[14:46, 24:56] = True  # 1.6 times the box about its center
    assert changed[inside].mean() > 0.9 and not changed[~inside].any() and len(results) == 2


def test_parameter_counts_in_the_text():
    text = read(PACKAGE)
    paper = config.build("paper")
    with torch.device("meta"):  # shapes only: nothing is filled in
        m = players.make_modifier(paper)
        d = players.make_recognizer(paper, 2).network
    for network in (m, d):
        assert f"{sum(p.numel() for p in network.parameters()):,}" in text
    assert isinstance(m, modifier.Modifier)


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(pytest.main(["-q", __file__]))
    for page in PAGES:
        page.write_text(rendered(read(page)), encoding="utf-8")
