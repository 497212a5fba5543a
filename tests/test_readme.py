"""The README keeps its word: its names exist, its commands parse, its numbers are those of the kept runs.

python tests/test_readme.py --write      rewrite the result blocks and the presets' numbers in the README
"""

import ast
import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # as a script, there is no conftest to do it

from ppad import anonymize, config, face_finder, figures, grade, modifier, reproduce, trainer

README = ROOT / "README.md"
CARD = ROOT / "ppad" / "weights" / "modifier.md"
RESULTS = ROOT / "lesson_notebooks" / "results"
MAPPED = [
    "Eq. (1)",
    "Eq. (2)",
    "Eq. (3)",
    "Eq. (4)",
    "Eq. (5)",
    *(f"Fig. {i}" for i in range(1, 7)),
    "Table 1",
    "Sec. 4, face detection: SSH",
    "Sec. 4, face detection: MTCNN",
    "Sec. 4, face modification",
    "Sec. 4, spatial action detection",
    "Sec. 4, face identity",
    "Sec. 4, aligned crops",
    "Sec. 4, training details",
    "Sec. 5.1",
    "Sec. 5.2",
    "Sec. 5.3",
    "Sec. 5.5",
    "Sec. 5.6",
]


# ---------------------------------------------------------------- what is generated


def result_block(preset: str) -> str:
    """Table 1 of the kept run of `preset` and a line that says what made it; "not run" where none is kept."""
    path = RESULTS / preset / "results.json"
    if not path.exists():
        return "not run\n"
    results = json.loads(path.read_text())
    machine, seeds = results["hardware"], len(results["seeds"])
    place = machine.get("gpu") or f"CPU ({machine['cpu']}, {machine['cores']} cores)"
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    preset_fields = vars(config.PRESETS[preset]())
    changed = [
        f"{name} {value}"
        for name, value in results["config"].items()
        if preset_fields.get(name, value) != value
        and name not in (*config.MACHINE, "faces", "actions")
    ]  # where things lay and ran changes no number
    return (
        f"{figures.table1_markdown(results)}\n{seeds} seed{'s' if seeds != 1 else ''}, {results['minutes']:.0f} minutes "
        f"on {place}, {versions}{'; other than the preset: ' + ', '.join(changed) if changed else ''}\n"
    )


def preset_row(line: str) -> str:
    """A row of the presets' table, whose first cell names fields in backquotes, with their values of today."""
    cell = line.split("|")[1].strip()

    def value(preset, field):
        number = getattr(config.PRESETS[preset](), field)
        return (
            ("no", "yes")[number]
            if isinstance(number, bool)
            else f"{number:g}"
            if isinstance(number, float)
            else str(number)
        )

    columns = [
        re.sub(r"`(\w+)`", lambda field: value(preset, field[1]), cell)
        for preset in ("toy", "photo", "paper")
    ]
    return f"| {' | '.join([cell, *columns])} |"


def rendered(text: str) -> str:
    """The README, or the model card, with every generated part made anew."""
    for preset in ("toy", "photo"):
        start, end = f"<!-- results:{preset} -->\n", f"<!-- /results:{preset} -->"
        if start not in text:
            continue
        before, rest = text.split(start)
        text = before + start + result_block(preset) + end + rest.split(end)[1]
    field = "|".join(vars(config.Paper()))
    return re.sub(
        rf"^\| `(?:{field})`.*\|$", lambda row: preset_row(row[0]), text, flags=re.MULTILINE
    )


def test_generated_parts_are_up_to_date():
    text = README.read_text(encoding="utf-8")
    assert rendered(text) == text, "run: python tests/test_readme.py --write"
    assert rendered(card := CARD.read_text(encoding="utf-8")) == card, (
        "run: python tests/test_readme.py --write"
    )
    assert "| Ours |" in card
    assert "| `face_size` | 64 | 128 | 256 |" in text  # rows of presets were recognised


def test_the_face_finders_card_says_what_was_measured():
    card = (ROOT / "ppad" / "weights" / "ssh_light.md").read_text(encoding="utf-8")
    found = json.loads((ROOT / "tests/benchmarks/results/ssh_light.json").read_text())
    rows = [
        [float(cell.strip(" %")) for cell in line.strip("|").split("|")]
        for line in re.findall(r"^\| 0\.\d.*\|$", card, re.MULTILINE)
    ]
    assert len(rows) == 4
    for score, *percent in rows:
        at = [found[place]["by_threshold"][f"{score:g}"] for place in ("stills", "lfw")]
        assert percent == [
            round(100 * one[key], 1) for one in at for key in ("recall", "precision")
        ]


def test_the_modifiers_card_says_how_its_own_seed_fared():
    kept = json.loads((RESULTS / "photo/results.json").read_text())
    ours = next(row for row in kept["rows"] if row["name"] == "Ours")["verification_error"][
        "strongest"
    ]["per_seed"]
    card = " ".join(CARD.read_text(encoding="utf-8").split())
    assert (
        f"this file is seed 0's, whose strongest attacker erred on {100 * ours[kept['seeds'].index(0)]:.1f} %"
        in card
    )


def test_result_block_of_a_kept_run(tmp_path, monkeypatch):
    """By hand: one row, two seeds; and without a run, exactly "not run"."""
    monkeypatch.setattr(sys.modules[__name__], "RESULTS", tmp_path)
    assert result_block("toy") == "not run\n"
    one = {"mean": 0.5, "std": 0.01, "per_seed": [0.49, 0.51]}
    errors = dict.fromkeys(
        ("own", "never_saw", "other_architecture", "retrained", "strongest"), one
    )
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy/results.json").write_text(
        json.dumps(
            {
                "preset": "toy",
                "seeds": [0, 1],
                "minutes": 41.26,
                "hardware": {"cpu": "A chip", "cores": 2},
                "versions": {"python": "3.12", "torch": "2.6"},
                "config": {
                    **vars(config.Toy()),
                    "T1": 7,
                    "faces": "elsewhere",
                    "device": "cpu",
                    "a_field_of_old": 3,
                },
                "rows": [
                    {"name": "Ours", "mAP": one, "AP": {"Lip": 0.25}, "verification_error": errors}
                ],
            }
        )
    )
    lines = result_block("toy").splitlines()
    assert lines[2].startswith("| Ours | 25.0 | 50.0 ± 1.0 | 50.0 ± 1.0 |")
    assert (
        lines[-1]
        == "2 seeds, 41 minutes on CPU (A chip, 2 cores), python 3.12, torch 2.6; other than the preset: T1 7"
    )


# ---------------------------------------------------------------- names


def names_in(path: Path) -> set[str]:
    """What a file defines: functions, classes, constants, and methods and fields as Class.name."""

    def of(body):
        for node in body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                yield node.name
                if isinstance(node, ast.ClassDef):
                    yield from (f"{node.name}.{name}" for name in of(node.body))
            elif isinstance(node, (ast.Assign, ast.AnnAssign)):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                yield from (target.id for target in targets if isinstance(target, ast.Name))

    return set(of(ast.parse(path.read_text(encoding="utf-8")).body))


def lacking(text: str) -> list[str]:
    """References `ppad/x.py:name` and `tests/x.py::name` in `text` that lead nowhere."""
    found = re.findall(r"`((?:ppad|tests)/\w+\.py)(:{1,2})([\w.]+)`", text)
    return [
        f"{file}{colons}{name}"
        for file, colons, name in found
        if not (ROOT / file).exists()
        or name not in names_in(ROOT / file)
        or (len(colons) == 2) != file.startswith("tests")
    ]


def test_every_name_exists():
    assert lacking(README.read_text(encoding="utf-8")) == []


def test_a_name_that_does_not_exist_is_noticed():
    """Also one with a typing mistake in its form, which must not pass for prose."""
    assert (
        lacking(
            "`ppad/losses.py:loss_det`, `tests/test_losses.py::test_equation_1`, `ppad/config.py:Paper.T1`"
        )
        == []
    )
    assert (
        len(
            lacking(
                "`ppad/losses.py:loss_dot`, `ppad/none.py:x`, `ppad/trainer.py:Game.x`, `tests/test_losses.py:psi`"
            )
        )
        == 4
    )


def test_paper_map_is_whole():
    table = (
        README.read_text(encoding="utf-8")
        .split("<!-- map -->")[1]
        .split("<!-- /map -->")[0]
        .strip()
        .splitlines()[2:]
    )
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
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
    for paper, code, test, lesson, why in rows:
        assert lesson == "-" or re.fullmatch(
            r"\[(\d\d)\]\(lesson_notebooks/\1_\w+\.ipynb\)", lesson
        ), (paper, lesson)
        if code == "-":  # nothing to run: the row must say why
            assert test == "-" and paper.startswith(("Fig. 1", "Sec. 5.5")) and len(why) > 10
        else:
            for cell, form in ((code, r"`ppad/\w+\.py:[\w.]+`"), (test, r"`tests/\w+\.py::\w+`")):
                assert all(re.fullmatch(form, part) for part in cell.split(", ")), (paper, cell)


def test_the_house_is_the_one_that_stands():
    """Every file has its line, and imports lead down, or to a room further up the list on the same floor."""
    text = README.read_text(encoding="utf-8").split("## The house")[1]
    listed = re.findall(r"^\| ([1-4]) \| `(\w+)` \| .+ \|$", text, flags=re.MULTILINE)
    floor = {room: int(number) for number, room in listed}
    rooms = [room for _, room in listed]
    assert sorted(rooms) == sorted(
        path.stem for path in (ROOT / "ppad").glob("*.py") if path.stem != "__init__"
    )
    for room in rooms:
        for node in ast.walk(ast.parse((ROOT / "ppad" / f"{room}.py").read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ppad":
                for other in (
                    [node.module[5:]]
                    if "." in node.module
                    else [alias.name for alias in node.names]
                ):
                    same = floor[other] == floor[room] > 1 and rooms.index(other) < rooms.index(
                        room
                    )
                    assert floor[other] < floor[room] or same, f"{room} imports {other}"


# ---------------------------------------------------------------- links and commands


def heading_anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_links_lead_somewhere():
    text = README.read_text(encoding="utf-8")
    anchors = {
        heading_anchor(heading) for heading in re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    }
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in anchors, target
        elif not target.startswith("http"):
            result = (ROOT / target).is_relative_to(RESULTS)  # pictures come with the kept run
            assert (ROOT / target).exists() or (
                result and not (ROOT / target).with_name("results.json").exists()
            ), target


def commands() -> list[list[str]]:
    """The words of each command in the README: lines of bash blocks, and backquoted ones that start with python."""
    text = README.read_text(encoding="utf-8")
    lines = [
        line
        for block in re.findall(r"```bash\n(.+?)```", text, flags=re.DOTALL)
        for line in block.splitlines()
    ]
    lines += re.findall(r"`(python [^`]+)`", text)
    return [
        shlex.split(part, comments=True)
        for line in lines
        for part in line.split("&&")
        if not line.startswith("#")
    ]


def test_the_two_commands_are_those_of_the_checks():
    """`.ci/run` installs from the same file and runs the README's test command."""
    text, checks = README.read_text(encoding="utf-8"), (ROOT / ".ci/run").read_text()
    first, second = re.findall(r"```bash\n(.+?)\n```", text, flags=re.DOTALL)[:2]
    assert first == "pip install -r requirements.txt && python -m ppad.reproduce"
    assert re.search(r"^pip install (--quiet )?-r requirements\.txt$", checks, flags=re.MULTILINE)
    assert second in checks.splitlines()


def test_every_command_parses():
    main_jobs = 0
    for words in commands():
        if words[:3] == ["python", "-m", "ppad.reproduce"]:
            reproduce.parse(words[3:])  # SystemExit on a flag or value it does not know
            main_jobs += 1
        elif words[:3] == ["python", "-m", "ppad.anonymize"]:
            anonymize.parse(words[3:])
        elif words[:3] == ["python", "-m", "ppad.grade"]:
            grade.parse(words[3:])
        elif words[:2] == ["jupyter", "lab"] or words[0].startswith("PPAD_"):
            assert (ROOT / words[-1]).exists(), words
        elif words[:3] == ["python", "-m", "pytest"]:
            assert all((ROOT / word).exists() for word in words[3:] if not word.startswith("-")), (
                words
            )
        elif words[0] == "python" and words[1] != "-m":
            assert (ROOT / words[1]).is_file(), words
        else:
            assert words[:2] == ["pip", "install"] or words[:3] == ["python", "-m", "venv"], words
    assert main_jobs >= 7


def test_flags_in_prose_exist():
    """Every `--flag` in backquotes is one of the main job's or of `anonymize`, or of the script named with it."""
    known = {f"--{name}" for name in vars(config.Paper())} | {
        f"--{name}" for name in ("preset", "out", "rows", "seed", "jobs")
    }
    known |= {f"--{name}" for name in vars(anonymize.parse(["a"]))} | {
        "--check",
        "--nproc-per-node",
        "--imagenet",
    }  # torchrun's; get_weights.py's
    known |= {f"--{name.replace('_', '-')}" for name in vars(grade.parse(["losses", "a.py"]))}
    text = re.sub(r"`python tests/test_readme.py --write`", "", README.read_text(encoding="utf-8"))
    assert set(re.findall(r"(?<![\w-])--[a-zA-Z][\w-]*", text)) <= known


def test_own_picture_lines_run(tiny, tmp_path, monkeypatch):
    """The README's Python block, on a tiny untrained M and a finder that knows where the face is."""
    (block,) = re.findall(
        r"```python\n(.+?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL
    )
    (tmp_path / "runs/photo").mkdir(parents=True)
    torch.manual_seed(0)
    held = {
        "config": vars(tiny()),
        "parts": {"modifier": trainer.make_modifier(tiny()).state_dict()},
    }
    torch.save(held, tmp_path / "runs/photo/players.pt")
    before = np.full((60, 80, 3), 90, np.uint8)
    Image.fromarray(before).save(tmp_path / "holiday.jpg")

    class Finder:
        def __init__(self, rule):
            assert rule in face_finder.RULES

        def find(self, frames):
            return [{"boxes": torch.tensor([[30.0, 20.0, 50.0, 40.0]])} for _ in frames]

    monkeypatch.setattr(face_finder, "FaceFinder", Finder)
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {})
    with Image.open(tmp_path / "holiday_anonymized.png") as saved:
        changed = (
            np.asarray(saved).astype(int) != np.asarray(Image.open("holiday.jpg")).astype(int)
        ).any(2)
    inside = np.zeros_like(changed)
    inside[14:46, 24:56] = True  # 1.6 times the box about its centre
    assert changed[inside].mean() > 0.9 and not changed[~inside].any()


def test_parameter_counts_in_the_text():
    text = README.read_text(encoding="utf-8")
    paper = config.build("paper")
    with torch.device("meta"):  # shapes only: nothing is filled in
        m, d = trainer.make_modifier(paper), trainer.make_recognizer(paper, 2).network
    for network in (m, d):
        assert f"{sum(p.numel() for p in network.parameters()):,}" in text
    assert isinstance(m, modifier.Modifier)


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(pytest.main(["-q", __file__]))
    for page in (README, CARD):
        page.write_text(rendered(page.read_text(encoding="utf-8")), encoding="utf-8")
