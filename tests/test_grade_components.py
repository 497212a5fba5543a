"""The grader on the real components: rubrics, starters, wrong modules, correct variants.

By default one wrong module per component is tried; PPAD_GRADE_ALL=1 tries all, every starter and
every correct variant.
"""

import ast
import importlib.util
import os
import re
import runpy
import sys
from pathlib import Path

import grading_variant
import pytest

from ppad import grade
from ppad.grade import starter

ROOT = Path(__file__).resolve().parents[1]
COMPONENTS = [
    "baselines",
    "crop_sampler",
    "detector",
    "losses",
    "metrics",
    "modifier",
    "sphereface",
    "trainer",
]
everything = pytest.mark.skipif(
    os.environ.get("PPAD_GRADE_ALL") != "1",
    reason="set PPAD_GRADE_ALL=1 to grade every file (about 40 minutes)",
)


@pytest.mark.parametrize("component", COMPONENTS)
def test_rubrics_are_worth_20_and_5_points_and_every_line_has_a_hint(component):
    assert component in grade.components()
    lines = grade._rubric([ROOT / "tests" / f"test_{component}.py"])
    game = grade._rubric([ROOT / "tests" / "grading_game.py"])
    assert sum(line.points for line in lines) == 20
    assert sum(line.points for line in game) == 5
    assert all(line.points > 0 and len(line.hint) > 20 for line in lines + game)


# ---------------------------------------------------------------- the real components' starters


def real(component):
    return (ROOT / "ppad" / f"{component}.py").read_text(encoding="utf-8")


def definitions(tree):
    """Dotted name -> node, of every function and class."""
    found = {}
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found[node.name] = node
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{name}": inner for name, inner in definitions(node).items()}
    return found


def is_private(name):
    return any(part.startswith("_") and not part.endswith("__") for part in name.split("."))


def filled_in(component):
    """The starter with the real bodies put back by name, with the imports that they need, and the
    private helpers at the end."""
    begun = ast.parse(starter(real(component)))
    whole = ast.parse(real(component))
    theirs = definitions(begun)
    for name, node in definitions(whole).items():
        if name in theirs:
            if isinstance(node, ast.FunctionDef):
                theirs[name].body = node.body
        elif not is_private(name.rpartition(".")[0]):
            parent = theirs[name.rpartition(".")[0]] if "." in name else begun
            parent.body.append(node)
    begun.body[1:1] = imports(whole)
    return ast.unparse(begun)


@pytest.mark.parametrize("component", COMPONENTS)
def test_starter_keeps_signatures_and_docstrings_and_no_bodies(component):
    begun = ast.parse(starter(real(component)))
    whole = ast.parse(real(component))
    assert ast.get_docstring(begun) == ast.get_docstring(whole)
    kept = definitions(begun)
    wanted = {name: node for name, node in definitions(whole).items() if not is_private(name)}
    assert list(kept) == list(wanted)
    for name, node in wanted.items():
        mine = kept[name]
        assert ast.get_docstring(mine) == ast.get_docstring(node)
        decorators = [ast.dump(decorator) for decorator in mine.decorator_list]
        assert decorators == [ast.dump(decorator) for decorator in node.decorator_list]
        if isinstance(node, ast.FunctionDef):
            assert ast.unparse(mine.args) == ast.unparse(node.args)
            assert ast.dump(mine.returns or ast.Pass()) == ast.dump(node.returns or ast.Pass())
            rest = ast.unparse(mine.body[1 if ast.get_docstring(mine) else 0 :])
            todo = f"raise NotImplementedError('not written yet: {node.name}')"
            assert rest == ("pass" if node.name == "__post_init__" else todo)
        else:
            assert fields(mine) == fields(node)
    assert plain(begun) == plain(whole)


@pytest.mark.parametrize("component", COMPONENTS)
def test_starter_has_no_leftovers(component):
    """No import that only bodies used, no private name in a text; what is there is used."""
    source = starter(real(component))
    begun = ast.parse(source)
    used = {node.id for node in ast.walk(begun) if isinstance(node, ast.Name)}
    assert {name.asname or name.name for row in imports(begun) for name in row.names} <= used
    assert not re.findall(r"\b_[a-z]\w*\(|`_\w+`", source.replace("self._", ""))
    assert source.startswith(grade.HEADER)
    assert "mean_terms" not in source  # how terms are averaged is not asked
    assert "\n\n\n\n" not in source and "NotImplementedError" in source
    assert not re.search(r"# -{9,}[^\n]*\s*(# -{9}|\Z)", source)  # a heading of nothing


def fields(node):
    """The assignments of a class."""
    return [ast.dump(row) for row in node.body if isinstance(row, (ast.Assign, ast.AnnAssign))]


def imports(tree):
    return [row for row in tree.body if isinstance(row, (ast.Import, ast.ImportFrom))]


def plain(tree):
    """Docstring and constants."""
    kinds = (ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)
    return [ast.dump(row) for row in tree.body if not isinstance(row, kinds)]


@pytest.mark.parametrize("component", COMPONENTS)
def test_starter_imports(component, tmp_path, monkeypatch):
    path = tmp_path / f"{component}.py"
    path.write_text(starter(real(component)), encoding="utf-8")
    spec = importlib.util.spec_from_file_location(f"starter_{component}", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look themselves up there
    spec.loader.exec_module(module)


@pytest.mark.parametrize(
    "component",
    [pytest.param(name, marks=[] if name == "losses" else everything) for name in COMPONENTS],
)
def test_starter_gets_0_and_filled_in_full_points(component, tmp_path):
    empty = tmp_path / "empty.py"
    full = tmp_path / "full.py"
    empty.write_text(starter(real(component)), encoding="utf-8")
    full.write_text(filled_in(component), encoding="utf-8")
    report = grade.grade(component, empty)
    assert report.points == 0, [line.text for line in report.lines if line.earned]
    assert "Traceback" not in grade._table(report)
    report = grade.grade(component, full)
    assert report.points == 25, grade._table(report)


# ------------------------------------------------------------------ wrong and correct modules


def wrong_paths(component):
    paths = sorted((ROOT / "tests" / "wrong" / component).glob("*.py"))
    return [path for path in paths if path.stem != "correct_variant"]


def wrong_modules():
    """One per component by default: the first by name."""
    for component in COMPONENTS:
        for number, path in enumerate(wrong_paths(component)):
            marks = [everything] if number else []
            yield pytest.param(path, id=f"{component}/{path.stem}", marks=marks)


@pytest.mark.parametrize("component", COMPONENTS)
def test_wrong_modules_find_what_they_replace(component):
    """All of them, without grading: so that a changed component is noticed at once."""
    for path in wrong_paths(component):
        source = real(component)
        for old, new in runpy.run_path(str(path))["REPLACE"]:
            assert source.count(old) == 1, f"{path}: {source.count(old)} times in the source: {old}"
            source = source.replace(old, new)


@pytest.mark.parametrize("path", list(wrong_modules()))
def test_wrong_module_is_caught_and_its_hint_names_the_mistake(path, tmp_path):
    component = path.parent.name
    words = runpy.run_path(str(path))
    source = real(component)
    for old, new in words["REPLACE"]:
        source = source.replace(old, new)
    student = tmp_path / "student.py"
    student.write_text(source, encoding="utf-8")
    report = grade.grade(component, student, game=False)
    assert not any("while" in note for note in report.notes), report.notes  # it did run
    missed = " ".join(line.hint for line in report.lines if line.reasons)
    assert report.points < report.out_of, f"not caught: {words['WRONG']}"
    hint = " ".join(words["HINT"].split()).lower()
    assert hint in " ".join(missed.split()).lower(), grade._table(report)


def test_two_assignments_are_not_enough(tmp_path):
    """Comparisons that always agree make every test of an empty module pass, and none count."""
    student = tmp_path / "student.py"
    cheat = [
        "import contextlib, pytest",
        "torch.equal = torch.allclose = lambda *a, **k: True",
        "torch.testing.assert_close = lambda *a, **k: None",
        "pytest.raises = lambda *a, **k: contextlib.suppress(BaseException)",
    ]
    student.write_text(real("losses") + "\n".join(cheat), encoding="utf-8")
    report = grade.grade("losses", student, game=False)
    notes = " ".join(report.notes)
    assert report.points == 0
    for words in ("replaces torch.equal", "replaces torch.testing.assert_close", "no test counts"):
        assert words in notes


@pytest.mark.parametrize("component", COMPONENTS)
def test_four_wrong_modules_and_a_correct_variant_are_there(component):
    assert len(wrong_paths(component)) >= 4
    assert (ROOT / "tests" / "wrong" / component / "correct_variant.py").is_file()


@everything
@pytest.mark.parametrize("component", COMPONENTS)
def test_correct_variant_and_real_module_get_full_points(component):
    for path in (
        ROOT / "tests" / "wrong" / component / "correct_variant.py",
        ROOT / "ppad" / f"{component}.py",
    ):
        report = grade.grade(component, path)
        assert report.points == report.out_of == 25, grade._table(report)


# ------------------------------------------------------------------ variants of the course


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_variant_changes_module_starter_and_test(component, tmp_path):
    grading_variant.write_variant(component, tmp_path / "course")
    for name in (f"ppad/{component}.py", f"tests/test_{component}.py"):
        variant = (tmp_path / "course" / name).read_text(encoding="utf-8")
        assert variant != (ROOT / name).read_text(encoding="utf-8")
        ast.parse(variant)
    module = (tmp_path / "course" / "ppad" / f"{component}.py").read_text(encoding="utf-8")
    assert starter(module) != starter(real(component))  # students are told


@pytest.mark.parametrize(
    "component",
    [pytest.param(name, marks=[] if name == "sphereface" else everything) for name in COMPONENTS],
)
def test_in_a_variant_last_years_solution_loses_points(component, tmp_path):
    course = tmp_path / "course"
    grading_variant.write_variant(component, course)
    report = grade.grade(component, course / "ppad" / f"{component}.py", course, game=False)
    assert report.points == 20, grade._table(report)
    report = grade.grade(component, ROOT / "ppad" / f"{component}.py", course, game=False)
    assert report.points < 20


def test_a_variants_mistakes_are_one_sentence(tmp_path, capsys):
    with pytest.raises(ValueError, match="choose one of baselines"):
        grading_variant.write_variant("circles", tmp_path / "course")
    with pytest.raises(FileExistsError):
        grading_variant.write_variant("losses", tmp_path)
    with pytest.raises(ValueError, match="losses.py has no 'gone' any more"):
        grading_variant.changed("source", [("gone", "new")], "losses.py")
