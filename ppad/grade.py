"""Grade a student's module: put it in place of ours, run our tests and a short training game.

    python -m ppad.grade COMPONENT student.py [more.py ...] [--json F] [--junit F]
    python -m ppad.grade --starter COMPONENT [--out F]  # the file that students begin with

A component is any module of `ppad` whose test file has marks like this one:

    @pytest.mark.rubric("line of the rubric", points=2, hint="what is probably wrong")

Several tests may share a line. Its points and hint come from the first test that gives them; it is
earned only if all its tests pass, and a skipped test has not passed. `helper="psi"` names the
functions that a line tests: all other lines use the reference's, so that a mistake costs points
only once. `tests/grading_game.py` adds a line to every component.

A subprocess (`tests/grading_child.py`) runs the tests in a temporary copy that contains the
student's file, and writes each test's start and result to a journal. This process watches time and
memory. A test that hangs or crashes loses its line, and a new process continues with the others.
This is a seat belt, not a sandbox (tests/README.md).
"""

import argparse
import ast
import json
import math
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
GAME = "grading_game.py"
COPIED = "grading_child grading_source grading_checks grading_canaries conftest".split()
KEPT_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "SYSTEMROOT", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
NEW_ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "",
    "MPLBACKEND": "agg",
    "OMP_NUM_THREADS": "1",
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONIOENCODING": "utf-8:replace",
}
HOME_FOLDERS = ("HOME", "USERPROFILE", "TMPDIR", "TEMP", "TMP")
MB = 2**20
PATIENCE = 20  # ours: at least 1/20 of the wall time counts, however long a file has waited
NOT_TRIED = ("not written yet", "your file has no ", ": not run", ": not reached")  # need no hint
SKIPPED = "not run: another test of this line hung or crashed"
HEADER = """\
# Write every body that says "not written yet". Leave arguments unchanged. A ValueError's message
# names the argument that is wrong and, for a shape or choice, what is expected: tests look for both
"""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one submission may use; ours: several times what our modules need."""

    seconds: float = 180  # in all, without the time spent waiting for a processor
    test_seconds: float = 30  # for one test; twice that to import the file and to collect tests
    game_seconds: float = 90  # for the game, which is one test
    memory: int = 4096 * MB  # resident bytes of all its processes together
    file: int = 256 * MB  # bytes of one file that it writes


@dataclass
class Line:
    """One line of the rubric."""

    text: str
    points: float = 0
    hint: str = ""
    helper: str = ""  # functions that this line tests and other lines use
    tests: list[str] = field(default_factory=list)  # "file::function"
    earned: float = 0
    reasons: list[str] = field(default_factory=list)  # one for each test that did not pass


@dataclass
class Report:
    """The grading of one submission."""

    component: str
    file: str
    points: float
    out_of: float
    lines: list[Line]
    notes: list[str]  # what is wrong with the file as a whole
    seconds: float


# ------------------------------------------------------------------ the starter


def starter(source: str) -> str:
    """The file that a student begins with, made from the source of the real module.

    Every body is replaced by `raise NotImplementedError`; private helpers, and imports that only
    bodies use, are removed. Docstrings, comments, constants, signatures and dataclass fields stay.
    Expects source formatted by `ruff format`.
    """
    rows = source.splitlines(keepends=True)
    for first, last, text in sorted(_edits(rows, ast.parse(source).body), reverse=True):
        rows[first:last] = text
    tree = ast.parse("".join(rows))
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    for node in reversed(tree.body):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [name for name in node.names if (name.asname or name.name) in used]
            if names != node.names:
                node.names = names
                rows[node.lineno - 1 : node.end_lineno] = [ast.unparse(node) + "\n"] * bool(names)
    text = re.sub(r'\n{3,}(?=import |from )|(?<=""")\n{3,}(?=#)', "\n\n", "".join(rows))
    empty = r"\n+# -{9,}.*\n(#.*\n)*(?=\n*(# -{9}|\Z))"  # headings with nothing below
    return HEADER + re.sub(empty, "\n", text)


def _edits(rows: list[str], nodes: list[ast.stmt]):
    """Yield (first row, last row, rows in their place) for every body and private helper."""
    for node in (node for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef))):
        if node.name.startswith("_") and not node.name.endswith("__"):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) - 1
            while rows[first - 1].lstrip().startswith("#") and "# --" not in rows[first - 1]:
                first -= 1  # the helper's own comment, but not a section heading
            while not rows[first - 1].strip():
                first -= 1
            yield first, node.end_lineno, []
        elif isinstance(node, ast.ClassDef):
            yield from _edits(rows, node.body)
        else:
            todo = f'raise NotImplementedError("not written yet: {node.name}")'
            if node.name == "__post_init__":  # defaults such as `config=Config()` run it at import
                todo = "pass  # not written yet"
            first = node.body[0]  # the docstring, if there is one
            begin = first.lineno - 1 if ast.get_docstring(node) is None else first.end_lineno
            yield begin, node.end_lineno, [f"{' ' * (node.col_offset + 4)}{todo}\n"]


# ------------------------------------------------------------------ the rubric and grading


def components(root: Path = ROOT) -> list[str]:
    """Names of the modules whose test file has rubric marks: they can be graded."""
    tests = sorted((root / "tests").glob("test_*.py"))
    return [test.stem.removeprefix("test_") for test in tests if _rubric([test])]


def _rubric(files: list[Path]) -> list[Line]:
    """The rubric's lines, in the order of their first test."""
    lines = {}
    for file in files:
        source = file.read_text(encoding="utf-8")
        for node in ast.parse(source).body if "mark.rubric" in source else []:
            for mark in getattr(node, "decorator_list", []):
                if not ast.unparse(mark).startswith("pytest.mark.rubric("):
                    continue
                text = ast.literal_eval(mark.args[0])
                line = lines.setdefault(text, Line(text))
                for given in mark.keywords:  # points, hint, helper: the first of each counts
                    if not getattr(line, given.arg):
                        setattr(line, given.arg, ast.literal_eval(given.value))
                line.tests.append(f"tests/{file.name}::{node.name}")
    return list(lines.values())


def grade(
    component: str, student: Path, root: Path = ROOT, limits: Limits = Limits(), game: bool = True
) -> Report:
    """Grade the file `student` as `ppad.COMPONENT`; game=False leaves out the game and its points.

    Raises OSError if the file cannot be read; all its other faults end in the Report.
    """
    began = time.monotonic()
    source = Path(student).read_bytes()
    files = [root / "tests" / name for name in [f"test_{component}.py"] + [GAME] * game]
    lines = _rubric(files)
    orders = {
        "component": component,
        "real": (root / "ppad" / f"{component}.py").read_text(encoding="utf-8"),
        "tests": [test for line in lines for test in line.tests],
        "helpers": {test: line.helper for line in lines for test in line.tests if line.helper},
        "root": str(root),
        "file": limits.file,
        "memory": limits.memory,
    }
    seen = _Seen()
    stop = ""
    while seen.seconds < limits.seconds:
        with tempfile.TemporaryDirectory(prefix="ppad_grade_", ignore_cleanup_errors=True) as place:
            _copy_files(Path(place), root, files, component, source)
            stop = _run_tests(Path(place), orders, limits, seen)
        if seen.test is None or seen.test in seen.results:  # no test was interrupted
            break
        seen.results[seen.test] = stop or "the tests were aborted"  # pytest.exit
        # The line is lost, so its other tests, which might crash too, are skipped.
        lost = next(names for names in map(seen.names, lines) if seen.test in names)
        seen.results = dict.fromkeys(lost, SKIPPED) | seen.results
        stop = f"not reached: the {limits.seconds:g} s for the whole file were over"
    if stop and not seen.results:
        seen.notes.append(stop)
    for line in lines:
        for name in seen.names(line):
            if reason := seen.results.get(name, stop or "not run"):
                line.reasons.append(f"{name.partition('::')[2]}: {reason}")
        line.reasons.sort(key=lambda reason: SKIPPED in reason)  # the crash itself comes first
        line.earned = 0 if line.reasons else line.points
    points = sum(line.earned for line in lines)
    out_of = sum(line.points for line in lines)
    seconds = round(time.monotonic() - began, 1)
    return Report(component, str(student), points, out_of, lines, seen.notes, seconds)


def _copy_files(place: Path, root: Path, files: list[Path], component: str, source: bytes) -> None:
    """Copy everything that the tests need into the folder `place`."""
    for name in ("ppad", "tests", "home"):
        (place / name).mkdir()
    (place / "pytest.ini").write_text("[pytest]\n")  # else pytest searches the parent folders
    tests = [*files, *(root / "tests" / f"{name}.py" for name in COPIED)]
    for path in [*(root / "ppad").glob("*.py"), *tests]:
        shutil.copyfile(path, place / path.relative_to(root))
    (place / "ppad" / f"{component}.py").write_bytes(source)


@dataclass
class _Seen:
    """What the processes that run one submission's tests have reported so far."""

    results: dict[str, str] = field(default_factory=dict)  # test -> "" if passed, else the reason
    collected: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    test: str | None = None  # the last test that the last process started
    seconds: float = 0.0  # of all processes, each counted from the file's import

    def names(self, line: Line) -> list[str]:
        """The names under which the line's tests were collected; parameters add several."""
        names = []
        for test in line.tests:
            names += sorted(n for n in self.collected if n.partition("[")[0] == test) or [test]
        return names


def _run_tests(place: Path, orders: dict, limits: Limits, seen: _Seen) -> str:
    """Run the tests that have no result yet in a new process. Returns why it failed, or ""."""
    token = secrets.token_hex(16)  # the journal's rows must contain it
    path = place / f"{secrets.token_hex(8)}.jsonl"
    orders = orders | {"done": list(seen.results), "journal": str(path), "token": token}
    seen.test = None
    before = seen.seconds
    waited = 0.0  # seconds, for a processor; not counted in the times below
    phase = "starting"
    since = 0.0  # when the phase or test began
    may_take = math.inf  # seconds that it may last
    imported = 0.0  # when the student's file was imported
    half_row = b""
    # The journal stays open, so that deleting it does no harm.
    with path.open("a+b") as journal, _process(place) as process:
        started = time.monotonic()
        with suppress(OSError):  # it has ended already, which is noticed below
            process.stdin.write(json.dumps(orders).encode() + b"\n")
            process.stdin.close()
        while True:
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.1)
            code = process.poll()
            waited = max(waited, _seconds_waited(process.pid))
            wall = time.monotonic() - started
            clock = max(wall - waited, wall / PATIENCE)
            seen.seconds = before + clock - imported
            *rows, half_row = (half_row + journal.read()).split(b"\n")
            for row in rows:
                try:
                    its_token, event, value, reason = json.loads(row)
                except (ValueError, TypeError, RecursionError):  # not by our child
                    continue
                if its_token != token:
                    continue
                since = clock
                if event == "phase":
                    phase = value
                    may_take = 2 * limits.test_seconds
                    if value == "your file was imported":
                        imported = clock
                elif event == "note" and reason not in seen.notes:
                    seen.notes.append(reason)
                elif event == "collected":
                    seen.collected.update(value)
                elif event == "start":
                    phase = "test"
                    seen.test = value
                    may_take = limits.game_seconds if GAME in value else limits.test_seconds
                elif event == "result" and value == seen.test:
                    seen.results[value] = seen.results.get(value) or reason
                elif event == "end":
                    return reason
            if code is not None and code < 0:
                problem = f"the process crashed ({signal.strsignal(-code)})"
            elif code is not None:
                problem = f"the process ended (status {code}: os._exit, sys.exit?)"
            elif clock - since > may_take:
                problem = f"took longer than {may_take:g} s (an endless loop?)"
            elif seen.seconds > limits.seconds:
                problem = f"the {limits.seconds:g} s for the whole file were over"
            elif _memory(process.pid) > limits.memory:
                problem = f"used more than {limits.memory / MB:g} MB of memory"
            else:
                continue
            return problem if phase == "test" else f"{problem} while {phase}"


@contextmanager
def _process(place: Path):
    """Start the subprocess in the folder `place`, with only the environment that it needs."""
    environment = {name: os.environ[name] for name in KEPT_ENVIRONMENT if name in os.environ}
    environment |= NEW_ENVIRONMENT | dict.fromkeys(HOME_FOLDERS, str(place / "home"))
    environment["PYTHONPATH"] = str(place)
    command = [sys.executable, "-s", f"tests/{COPIED[0]}.py"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, cwd=place, env=environment, start_new_session=True, **pipes)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError, PermissionError):  # the session may have ended
            if hasattr(os, "killpg"):
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
        process.wait()


def _memory(pid: int) -> int:
    """Resident bytes of all processes in the session `pid`; 0 on systems without /proc."""
    memory = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # the process has ended meanwhile
            words = stat.read_text().rpartition(")")[2].split()
            if int(words[3]) == pid:
                memory += int(words[21]) * os.sysconf("SC_PAGE_SIZE")
    return memory


def _seconds_waited(pid: int) -> float:
    """Seconds that a process has waited for a processor; 0 where the system does not say."""
    path = Path(f"/proc/{pid}/schedstat")
    return int(path.read_text().split()[1]) / 1e9 if path.exists() else 0.0


# ------------------------------------------------------------------ reports and the command


def _table(report: Report) -> str:
    """The report as text."""
    earned = f"{report.points:g} of {report.out_of:g} points ({report.seconds:.0f} s)"
    rows = [f"{report.component}  {report.file}: {earned}"]
    rows += [f"  note: {note}" for note in report.notes]
    for line in report.lines:
        rows.append(f"  {line.earned:>3g} / {line.points:g}  {line.text}")
        if not line.reasons or line.reasons[0].endswith(tuple(report.notes)):
            continue  # earned, or a note above gives the reason
        more = f" (and {len(line.reasons) - 1} more)" if len(line.reasons) > 1 else ""
        tried = not any(words in line.reasons[0] for words in NOT_TRIED)
        for text in [f"hint: {line.hint}"] * tried + [line.reasons[0] + more]:
            rows += textwrap.wrap(text, 100, initial_indent=" " * 11, subsequent_indent=" " * 13)
    return "\n".join(rows)


def _junit(reports: list[Report]) -> bytes:
    """The reports as JUnit XML: a test suite per file, a test case per line."""
    top = ElementTree.Element("testsuites")
    for report in reports:
        # XML allows no control characters and no surrogates (bytes of names that are not UTF-8).
        name = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in report.file)
        suite = ElementTree.SubElement(top, "testsuite", name=f"{report.component} {name}")
        suite.attrib |= {
            "errors": "0",
            "time": str(report.seconds),
            "tests": str(len(report.lines)),
        }
        suite.set("failures", str(sum(bool(line.reasons) for line in report.lines)))
        for line in report.lines:
            case = ElementTree.SubElement(suite, "testcase", classname=f"ppad.{report.component}")
            case.set("name", f"{line.text} ({line.points:g} points)")
            if line.reasons:
                failure = ElementTree.SubElement(case, "failure", message=line.hint)
                failure.text = "\n".join(line.reasons)
    return ElementTree.tostring(top, encoding="utf-8", xml_declaration=True)


def parse(words: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; a mistake ends with one sentence and status 2."""
    parser = argparse.ArgumentParser("python -m ppad.grade", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("component", choices=components(), help="the module that the students wrote")
    add("files", nargs="*", type=Path, metavar="student.py")
    add("--starter", action="store_true", help="write the file students begin with, grade nothing")
    add("--out", type=Path, help="where --starter writes (default: COMPONENT.py in this folder)")
    add("--json", type=Path, help="write the reports there as JSON")
    add("--junit", type=Path, help="write the reports there as JUnit XML")
    add("--skip-game", action="store_true", help="leave out the toy game and its points")
    add("--seconds", type=positive, default=Limits.seconds, help="a file's limit (%(default)g)")
    add("--test-seconds", type=positive, default=Limits.test_seconds, help="a test's (%(default)g)")
    add("--memory", type=positive, default=Limits.memory / MB, help="a file's limit, MB (4096)")
    args = parser.parse_args(words)
    args.reports = [path for path in (args.json, args.junit) if path]
    if args.starter == bool(args.files) or (args.reports if args.starter else args.out):
        fix = "or give --starter alone, which grades nothing; --out goes with --starter"
        parser.error(f"name the file to grade, {fix}, --json and --junit with files")
    for path in args.files:
        if not path.is_file():
            parser.error(f"{path} is not there, or a folder: name .py and .ipynb files")
    places = [path.resolve() for path in (*args.files, *args.reports)]
    if len(set(places)) < len(places):
        parser.error("a report is one of the files, or a file is given twice: name another")
    return args


def positive(text: str) -> float:
    """A number above 0; argparse turns the ValueError for others into a sentence."""
    if not 0 < float(text) < 1e9:
        raise ValueError
    return float(text)


def main(words: list[str] | None = None) -> int:
    args = parse(words)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # for names that a console cannot show
    try:
        if args.starter:
            source = (ROOT / "ppad" / f"{args.component}.py").read_text(encoding="utf-8")
            out = args.out or Path(f"{args.component}.py")
            with out.open("x", encoding="utf-8") as file:  # never over a student's work
                file.write(starter(source))
            print(f"wrote {out}: write every body that says NotImplementedError")
            return 0
        for path in args.reports:
            path.open("a").close()  # fail now, not after all grading
        memory = int(args.memory * MB)
        limits = Limits(seconds=args.seconds, test_seconds=args.test_seconds, memory=memory)
        reports = []
        for path in args.files:
            reports.append(grade(args.component, path, limits=limits, game=not args.skip_game))
            print(_table(reports[-1]), flush=True)
        if len(reports) > 1:
            print("", *(f"{r.points:>5g} / {r.out_of:g}  {r.file}" for r in reports), sep="\n")
        if args.json:
            args.json.write_text(json.dumps([asdict(one) for one in reports], indent=1) + "\n")
        if args.junit:
            args.junit.write_bytes(_junit(reports))
    except OSError as error:
        place = error.filename or "a report"  # a full disk does not say which
        print(f"python -m ppad.grade: error: {place}: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("python -m ppad.grade: stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
