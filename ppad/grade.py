"""Grade a student's module: swapped in for ours, judged by our own tests and by a short game that must learn.

    python -m ppad.grade COMPONENT student.py [more.py ...] [--json F] [--junit F]
    python -m ppad.grade --starter COMPONENT [--out F]

The first form prints points for every line of the rubric, with a hint and the reason for each line missed. The second
writes the file that students begin with: the real module with its bodies taken out, made from the source as it stands.
Exit status: 0 when everything was graded, whatever the points; 2 for a mistake in the command.

Nothing here knows a component. A component is a module of `ppad` whose test file bears rubric marks:

    @pytest.mark.rubric("line of the rubric", points=2, hint="what is probably wrong", seconds=60)

One line may stand on many tests: points, hint and seconds (a test's time limit, if it needs another than usual) come
from the first that gives them, and the line is earned only if all its tests pass; a skipped test has not passed.
`tests/grading_game.py` adds its lines to every component.

How: a subprocess (`tests/grading_child.py`) works in a temporary folder, on copies of `ppad/` and the two test files,
with the student's file in the component's place, and tells a journal what it starts and how it ends. This process
watches time, memory and output. A test that hangs, or takes its process down, gets 0; a new process goes on behind it.
This is a seat belt, not a jail: it stops accidents and plain cheating, not somebody who means harm and knows Python.
Grade hostile strangers' files in a container. Memory, and how long it waited for a processor, are read from /proc, so
on Linux only; elsewhere the limits on time (by the wall clock), on output and on files remain.
"""

import argparse
import ast
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from ppad.starter import starter

ROOT = Path(__file__).resolve().parents[1]
GAME, CHILD = "grading_game.py", "grading_child.py"
KEPT_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "SYSTEMROOT", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
MB, PATIENCE = 2**20, 20


@dataclass(frozen=True)
class Limits:
    """What one submission may use (all ours: several times what the real modules need).

    Seconds spent waiting for a processor do not count, so that a busy machine costs nobody points; but not without
    end: on the wall clock the limits are PATIENCE times as long.
    """

    seconds: float = 180  # for everything
    test_seconds: float = (
        30  # for one test; importing the file and collecting its tests may take twice that
    )
    memory: int = 4096 * MB  # bytes resident, all its processes together
    output: int = MB  # bytes printed during one test
    file: int = 256 * MB  # bytes in one file it writes
    restarts: int = 8  # new processes after tests that took theirs down


@dataclass
class Line:
    """One line of the rubric. tests: "file::function" or "file::Class::function", without parameters."""

    text: str
    points: float = 0
    hint: str = ""
    tests: list[str] = field(default_factory=list)
    earned: float = 0
    reasons: list[str] = field(default_factory=list)  # why not, one for each test missed


@dataclass
class Report:
    """One submission. notes: what is wrong with the file as a whole."""

    component: str
    file: str
    lines: list[Line]
    notes: list[str]
    seconds: float

    @property
    def points(self) -> float:
        return sum(line.earned for line in self.lines)

    @property
    def out_of(self) -> float:
        return sum(line.points for line in self.lines)


# ---------------------------------------------------------------- the rubric, read from the tests without running them


def components(root: Path = ROOT) -> list[str]:
    """Names of the modules that can be graded: those whose test file bears rubric marks."""
    marked = [
        test
        for test in sorted((root / "tests").glob("test_*.py"))
        if "mark.rubric" in test.read_text(encoding="utf-8")
    ]
    return [
        name
        for test in marked
        if (root / "ppad" / f"{(name := test.stem[5:])}.py").is_file() and _rubric([test])[0]
    ]


def _rubric(files) -> tuple[list[Line], dict[str, float]]:
    """Lines in the order of their first test, and the tests that have time limits of their own."""
    lines, seconds = {}, {}

    def visit(nodes, file, prefix, inherited):
        for node in nodes:
            if not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                continue
            marks = [
                d
                for d in node.decorator_list
                if isinstance(d, ast.Call) and ast.unparse(d.func) == "pytest.mark.rubric"
            ]
            mark, name = (marks or [inherited])[0], f"{prefix}::{node.name}"
            if isinstance(node, ast.ClassDef):
                visit(node.body, file, name, mark)
            elif mark is not None and node.name.startswith("test"):
                text = ast.literal_eval(mark.args[0])
                more = {word.arg: ast.literal_eval(word.value) for word in mark.keywords}
                line = lines.setdefault(text, Line(text))
                line.points, line.hint = (
                    line.points or more.get("points", 0),
                    line.hint or more.get("hint", ""),
                )
                line.tests.append(name)
                if "seconds" in more:
                    seconds[name] = more["seconds"]

    for file in files:
        visit(ast.parse(file.read_text(encoding="utf-8")).body, file, f"tests/{file.name}", None)
    return list(lines.values()), seconds


# ---------------------------------------------------------------- the watched subprocess


def grade(
    component: str, student: Path, root: Path = ROOT, limits: Limits = Limits(), game: bool = True
) -> Report:
    """Grade the file `student` as `ppad.COMPONENT`; game=False leaves out the game and its points.

    Whatever the file does gives a Report; raises OSError only if the file cannot be read.
    """
    began, source = time.monotonic(), Path(student).read_bytes()
    files = [root / "tests" / f"test_{component}.py"] + [root / "tests" / GAME] * game
    lines, own_seconds = _rubric(files)
    real = ast.parse((root / "ppad" / f"{component}.py").read_text(encoding="utf-8"))
    orders = {
        "component": component,
        "tests": [test for line in lines for test in line.tests],
        "names": _public_names(real),
        "warm": _outside_imports(real),
        "file": limits.file,
        "memory": limits.memory,
    }
    results, collected, notes, left = (
        {},
        set(),
        [],
        limits.seconds,
    )  # results: test -> "" if passed, else why not
    for _ in range(limits.restarts + 1):
        with tempfile.TemporaryDirectory(prefix="ppad_grade_", ignore_cleanup_errors=True) as place:
            child = _Child(
                _furnish(Path(place), root, files, component, source),
                orders | {"done": list(results)},
                limits,
            )
            try:
                stop = child.watch(left, own_seconds)
            finally:
                child.end()
        results |= child.results
        collected |= child.collected
        notes += [note for note in child.notes if note not in notes]
        left -= child.spent(child.began)
        if child.test is None or child.test in results:  # it did not end in the middle of a test
            break
        results[child.test] = stop or "the tests were broken off"  # pytest.exit
        stop = f"not reached: the {limits.seconds:g} s for the whole file were over"
        if left <= 0:
            break
    else:
        stop = f"not run: {limits.restarts + 1} tests had taken their process down"
    if stop and not results:
        notes.append(stop)
    for line in lines:
        whys = {
            name: results.get(name, stop or "not run")
            for test in line.tests
            for name in sorted(name for name in collected if _function(name) == test) or [test]
        }
        line.reasons = [f"{name.partition('::')[2]}: {why}" for name, why in whys.items() if why]
        line.earned = 0 if line.reasons else line.points
    return Report(component, str(student), lines, notes, round(time.monotonic() - began, 1))


def _furnish(place: Path, root: Path, files, component: str, source: bytes) -> Path:
    for name in ("ppad", "tests", "home"):
        (place / name).mkdir()
    (place / "pytest.ini").write_text("[pytest]\n")  # so that pytest looks for no other above
    for path in (root / "ppad").glob("*.py"):
        shutil.copyfile(path, place / "ppad" / path.name)
    for path in [*files, root / "tests" / "conftest.py", root / "tests" / CHILD]:
        shutil.copyfile(path, place / "tests" / path.name)
    (place / "ppad" / f"{component}.py").write_bytes(source)
    return place


class _Child:
    """One subprocess and what is known of it. Its journal's lines count only if they bear a word that it alone was told."""

    def __init__(self, place: Path, orders: dict, limits: Limits):
        self.limits, self.word, journal = (
            limits,
            secrets.token_hex(16),
            place / f"{secrets.token_hex(8)}.jsonl",
        )
        self.journal, self.half_row = (
            journal.open("a+b"),
            b"",
        )  # open, so that deleting it does no harm
        self.results, self.collected, self.notes = {}, set(), []
        self.test, self.phase, self.ended, self.memory, self.waited = (
            None,
            "starting",
            False,
            0,
            0.0,
        )
        self.since = self.began = (
            time.monotonic(),
            0.0,
        )  # moments: the clock, and the wait until then
        self.printed, self.printed_before = 0, 0
        kept = {name: os.environ[name] for name in KEPT_ENVIRONMENT if name in os.environ}
        kept |= dict.fromkeys(
            ("HOME", "USERPROFILE", "TMPDIR", "TEMP", "TMP", "MPLCONFIGDIR"), str(place / "home")
        )
        kept |= {
            "PYTHONPATH": str(place),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTHONIOENCODING": "utf-8:replace",
            "CUDA_VISIBLE_DEVICES": "",
            "MPLBACKEND": "agg",
            "OMP_NUM_THREADS": "1",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-s", f"tests/{CHILD}"],
            cwd=place,
            env=kept,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.reader = threading.Thread(target=self._drain, daemon=True)
        self.reader.start()
        with suppress(OSError):  # it died at once: watch() will say so
            self.process.stdin.write(
                json.dumps(orders | {"journal": str(journal), "word": self.word}).encode() + b"\n"
            )
            self.process.stdin.close()

    def _drain(self) -> None:
        while chunk := self.process.stdout.read1(65536):
            self.printed += len(chunk)  # counted, never kept
            while self._prints_too_much() and self.process.poll() is None:
                time.sleep(0.01)  # who prints more waits here to be ended

    def _prints_too_much(self) -> bool:
        return self.printed - self.printed_before > self.limits.output

    def watch(self, left: float, own_seconds: dict) -> str:
        """Wait for the end, at most `left` seconds. Returns why it did not end well, "" if it did."""
        limits = self.limits
        while True:
            over = self.process.poll() is not None
            self._read_journal()
            self._measure()
            if self.ended is not False:
                return self.ended
            if over:
                code = self.process.returncode
                how = (
                    f"crashed ({signal.strsignal(-code)})"
                    if code < 0
                    else f"ended (status {code}: os._exit, sys.exit?)"
                )
                return f"the process {how}{self._when()}"
            seconds = {
                "starting": left,
                "test": own_seconds.get(_function(self.test or ""), limits.test_seconds),
            }
            seconds = seconds.get(self.phase, 2 * limits.test_seconds)
            if self.spent(self.since) > seconds:
                return f"took longer than {seconds:g} s{self._when()}: an endless loop?"
            if self.spent(self.began) > left:
                return f"the {limits.seconds:g} s for the whole file were over{self._when()}"
            if self._prints_too_much():
                return f"printed more than {limits.output / MB:g} MB{self._when()}"
            if self.memory > limits.memory:
                return f"used more than {limits.memory / MB:g} MB of memory{self._when()}"
            time.sleep(0.1)

    def spent(self, since: tuple[float, float]) -> float:
        """Seconds, as `Limits` counts them, from that moment to now."""
        wall = time.monotonic() - since[0]
        return max(wall - (self.waited - since[1]), wall / PATIENCE)

    def _measure(self) -> None:
        """Memory of all its processes, and how long it waited for a processor, where /proc tells."""
        self.memory = 0
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):  # ended meanwhile
                words = stat.read_text().rpartition(")")[2].split()
                if int(words[3]) == self.process.pid:  # its session
                    self.memory += int(words[21]) * os.sysconf("SC_PAGE_SIZE")
        with suppress(OSError, ValueError, IndexError):
            self.waited = (
                int(Path(f"/proc/{self.process.pid}/schedstat").read_text().split()[1]) / 1e9
            )

    def _when(self) -> str:
        return {"test": "", "import": " while your file was imported"}.get(
            self.phase, f" while {self.phase}"
        )

    def _read_journal(self) -> None:
        *rows, self.half_row = (self.half_row + self.journal.read()).split(b"\n")
        for row in rows:
            try:
                word, event, value, why = json.loads(row)
            except ValueError:
                continue
            if word != self.word:
                continue
            self.since, self.printed_before = (time.monotonic(), self.waited), self.printed
            if event == "phase":
                self.phase, self.began = (
                    value,
                    self.since if value == "import" else self.began,
                )  # torch has loaded
            elif event == "note":
                self.notes.append(why)
            elif event == "collected":
                self.collected.update(value)
            elif event == "start":
                self.phase, self.test = "test", value
            elif event == "result" and value == self.test:
                self.results[value], self.phase = (
                    self.results.get(value) or why,
                    "between two tests",
                )
            elif event == "end":
                self.ended = why

    def end(self) -> None:
        """Kill it and whatever it started."""
        with suppress(ProcessLookupError, PermissionError):  # all of it may have ended already
            os.killpg(self.process.pid, signal.SIGKILL) if hasattr(
                os, "killpg"
            ) else self.process.kill()
        self.process.wait()
        self.reader.join(2)
        self.journal.close()


def _function(test: str) -> str:
    return test.partition("[")[0]


def _public_names(tree: ast.Module) -> list[str]:
    named = [node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    named += [
        x.id
        for node in tree.body
        if isinstance(node, ast.Assign)
        for x in node.targets
        if isinstance(x, ast.Name)
    ]
    return [name for name in named if not name.startswith("_")]


def _outside_imports(tree: ast.Module) -> list[str]:
    """Packages to import before the clock runs: on a cold disk torch alone can take a minute."""
    names = {
        alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names
    }
    names |= {node.module for node in tree.body if isinstance(node, ast.ImportFrom) and node.module}
    return sorted(name for name in names if name.partition(".")[0] != "ppad")


# ---------------------------------------------------------------- what a person, a program and a CI system read


def _table(report: Report) -> str:
    rows = [
        f"{report.component}  {report.file}: {report.points:g} of {report.out_of:g} points ({report.seconds:.0f} s)"
    ]
    rows += [f"  note: {note}" for note in report.notes]
    for line in report.lines:
        rows.append(f"  {line.earned:>3g} / {line.points:g}  {line.text}")
        if line.reasons and not (
            report.notes and line.reasons[0].endswith(report.notes[-1])
        ):  # said once already
            more = f" (and {len(line.reasons) - 1} more)" if len(line.reasons) > 1 else ""
            rows += [
                textwrap.fill(text, 116, initial_indent=" " * 11, subsequent_indent=" " * 13)
                for text in (f"hint: {line.hint}", f"{line.reasons[0]}{more}")
            ]
    return "\n".join(rows)


def _junit(reports: list[Report]) -> bytes:
    top = ElementTree.Element("testsuites")
    for report in reports:
        suite = ElementTree.SubElement(
            top,
            "testsuite",
            name=f"{report.component} {report.file}",
            errors="0",
            tests=str(len(report.lines)),
            time=str(report.seconds),
            failures=str(sum(bool(line.reasons) for line in report.lines)),
        )
        for line in report.lines:
            case = ElementTree.SubElement(
                suite,
                "testcase",
                classname=f"ppad.{report.component}",
                name=f"{line.text} ({line.points:g} points)",
            )
            if line.reasons:
                ElementTree.SubElement(case, "failure", message=line.hint).text = "\n".join(
                    line.reasons
                )
    return ElementTree.tostring(top, encoding="utf-8", xml_declaration=True)


def parse(words: list[str] | None = None) -> argparse.Namespace:
    """The command line; a mistake in it ends with one sentence and status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m ppad.grade", description=__doc__.partition("\n")[0]
    )
    known = components()
    parser.add_argument("component", help=f"one of: {', '.join(known)}")
    parser.add_argument("files", nargs="*", type=Path, metavar="student.py")
    parser.add_argument(
        "--starter",
        action="store_true",
        help="write the file that students begin with, and grade nothing",
    )
    parser.add_argument(
        "--out", type=Path, help="where --starter writes (default: COMPONENT.py in this folder)"
    )
    parser.add_argument("--json", type=Path, help="write the reports there as JSON")
    parser.add_argument("--junit", type=Path, help="write the reports there as JUnit XML")
    parser.add_argument(
        "--skip-game", action="store_true", help="leave out the toy game and its points"
    )
    parser.add_argument(
        "--seconds", type=float, default=Limits.seconds, help="limit a file (default %(default)g)"
    )
    parser.add_argument(
        "--test-seconds",
        type=float,
        default=Limits.test_seconds,
        help="limit a test (default %(default)g)",
    )
    parser.add_argument(
        "--memory",
        type=float,
        default=Limits.memory / MB,
        help="limit a file, in MB (default %(default)g)",
    )
    args = parser.parse_args(words)
    if args.component not in known:
        parser.error(
            f"no component is called {args.component!r}; choose one of: {', '.join(known)}"
        )
    if args.starter and args.files:
        parser.error("--starter grades nothing: leave the file out, or name the new one with --out")
    if not args.starter and not args.files:
        parser.error(
            f"name the file to grade as {args.component}, or ask for --starter {args.component}"
        )
    return args


def main(words: list[str] | None = None) -> int:
    args = parse(words)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a console may not know a file's name
    try:
        if args.starter:
            out = args.out or Path(f"{args.component}.py")
            with out.open("x", encoding="utf-8") as file:
                file.write(
                    starter((ROOT / "ppad" / f"{args.component}.py").read_text(encoding="utf-8"))
                )
            print(f"wrote {out}: fill in every body that says NotImplementedError")
            return 0
        for path in (path for path in args.files if not path.is_file()):
            print(
                f"python -m ppad.grade: error: {path} is "
                f"{'a folder: name the .py files in it' if path.is_dir() else 'not there, or no file'}",
                file=sys.stderr,
            )
            return 2
        limits = Limits(
            seconds=args.seconds, test_seconds=args.test_seconds, memory=int(args.memory * MB)
        )
        reports = []
        for path in args.files:
            reports.append(grade(args.component, path, limits=limits, game=not args.skip_game))
            print(_table(reports[-1]), flush=True)
        if len(reports) > 1:
            print(
                "\n"
                + "\n".join(
                    f"{report.points:>5g} / {report.out_of:g}  {report.file}" for report in reports
                )
            )
        if args.json:
            rows = [
                asdict(report) | {"points": report.points, "out_of": report.out_of}
                for report in reports
            ]
            args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        if args.junit:
            args.junit.write_bytes(_junit(reports))
    except OSError as error:
        print(f"python -m ppad.grade: error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("python -m ppad.grade: stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
