"""Runs the rubric's tests on a student's module, in a folder of copies; started by `ppad.grade`.

Standard input gives the orders as one line of JSON. Each event is written to a journal when it
happens, so that the parent knows in which test this process hung or ended. A row is
[token, event, value, reason]:

    phase       value: the present step; time counts from "your file was imported" on
    note        reason: what is wrong with the file as a whole, or what an instructor should see
    collected   value: names of the tests
    start       value: a test
    result      value: a test; reason: why it did not pass, "" if it did
    end         reason: why the tests could not be run, "" if they were

A test passes if its body ran to its end and the checks of `grading_checks.py` then find nothing.
"""

import ast
import builtins
import functools
import gc
import importlib
import json
import os
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import grading_checks
import grading_source
import pytest

# Bytes (ours) above the parent's memory limit, at which a huge allocation fails in this process.
SLACK = 2**31


class Journal:
    """The journal of this process; a process that the student's code forks cannot write to it."""

    def __init__(self, path: str, token: str):
        self.file = open(path, "a", encoding="utf-8")
        self.token = token
        self.process = os.getpid()

    def write(self, event: str, value=None, reason: str = "") -> None:
        if os.getpid() == self.process:
            self.file.write(json.dumps([self.token, event, value, reason]) + "\n")
            self.file.flush()

    def end(self, reason: str = "") -> None:
        self.write("end", None, reason)
        os._exit(0)  # a student's thread cannot keep the process alive


class Recorder:
    """A pytest plugin that chooses the rubric's tests and journals their results."""

    def __init__(self, journal: Journal, orders: dict, watch, module, helpers: dict):
        self.journal = journal
        self.tests = orders["tests"]
        self.done = orders["done"]
        self.about = orders["helpers"]  # test -> the helpers that it tests
        self.watch = watch  # returns what was tampered with, or ""
        self.module = module  # the student's
        self.helpers = helpers  # name -> the reference's function
        self.problems = []  # why files could not be collected
        self.reasons = []  # why the present test has not passed
        self.finished = False  # whether the present test's body ran to its end

    def pytest_collection_modifyitems(self, items):
        pytest.register_assert_rewrite("grading_canaries")  # as in the tests
        importlib.import_module("grading_canaries")
        items[:] = [item for item in items if item.nodeid.partition("[")[0] in self.tests]
        self.journal.write("collected", [item.nodeid for item in items])
        items[:] = [item for item in items if item.nodeid not in self.done]
        for item in items:
            item.obj = self._followed(item, item.obj)

    def _followed(self, item, body):
        """The test `body` with the reference's helpers; sets `finished` at its end."""

        @functools.wraps(body)
        def follow(*args, **kwargs):
            own = self.about.get(item.nodeid.partition("[")[0], "").split()
            given = {name: ref for name, ref in self.helpers.items() if name not in own}
            with _replaced(given, self.module, item.module):
                body(*args, **kwargs)
            self.finished = True

        return follow

    def pytest_collectreport(self, report):
        if report.failed:
            self.problems.append(_reason(str(report.longrepr)))

    def pytest_runtest_logstart(self, nodeid):
        self.reasons.clear()
        self.finished = False
        self.journal.write("start", nodeid)

    def pytest_runtest_logreport(self, report):
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            text = crash.message.partition("\n")[0] if crash else str(report.longrepr)
            self.reasons.append(_reason(text) or "failed")
        elif report.skipped:
            self.reasons.append("skipped, which counts as not passed")

    def pytest_runtest_logfinish(self, nodeid):
        if not self.reasons and not self.finished:
            self.reasons.append("the test did not run to its end")
        tampered = self.watch()
        if tampered:
            self.journal.write("note", reason=f"for the instructor: {tampered}; no test counts")
            self.reasons.insert(0, f"not counted: {tampered}")
        self.journal.write("result", nodeid, self.reasons[0] if self.reasons else "")


def main() -> None:
    orders = json.loads(sys.stdin.readline())
    journal = Journal(orders["journal"], orders.pop("token"))
    threading.Thread(target=_follow, args=(os.getppid(),), daemon=True).start()
    real = orders.pop("real")
    names, packages = _interface(real)
    for name in packages:  # before time is measured: from a cold disk, torch can take a minute
        importlib.import_module(name)
    path = os.path.abspath(f"ppad/{orders['component']}.py")
    try:
        source, notes = grading_source.python_of(Path(path).read_bytes())
    except ValueError as error:
        journal.end(f"your file cannot be imported: {error}")
    Path(path).write_bytes(source)
    for name in grading_source.ONLY_IN_JUPYTER:
        setattr(builtins, name, grading_source.StandIn())
    for note in notes + grading_checks.notes_on(source, real):
        journal.write("note", reason=note)
    helpers = {
        name: grading_checks.reference_helper(name, real)
        for name in " ".join(orders["helpers"].values()).split()
    }
    del real
    module_name = f"ppad.{orders['component']}"
    watch = functools.partial(_tampered, grading_checks.Snapshot(), path, module_name)
    _limit_resources(orders["file"], orders["memory"])
    grading_checks.guard(
        os.getcwd(), orders["root"], path, lambda reason: journal.write("note", reason=reason)
    )

    journal.write("phase", "your file was imported")
    try:
        module = importlib.import_module(module_name)
    except BaseException as error:  # SystemExit and KeyboardInterrupt too
        reason = _reason(f"{type(error).__name__}: {error}")
        journal.end(f"your file cannot be imported: {reason}")
    missing = [name for name in names if not hasattr(module, name)]
    for name in missing:  # so that only the tests that need it fail
        setattr(module, name, _absent(name))
    if missing:
        journal.write("note", reason=f"your file has no {', '.join(missing)}")

    journal.write("phase", "its tests were collected")
    try:
        importlib.import_module("conftest")  # it imports modules that import the student's
    except BaseException as error:
        reason = _reason(f"{type(error).__name__}: {error}")
        journal.end(f"the tests could not use your file: {reason}")
    gc.freeze()  # what is there now stays: no collection need look through torch again
    files = dict.fromkeys(test.partition("::")[0] for test in orders["tests"])
    words = ["-q", "-s", "--rootdir=.", "-p", "no:cacheprovider"]
    recorder = Recorder(journal, orders, watch, module, helpers)
    status = pytest.main([*words, "--continue-on-collection-errors", *files], plugins=[recorder])
    if status != pytest.ExitCode.INTERRUPTED:
        problem = (
            f"the tests could not use your file: {recorder.problems[0]}"
            if recorder.problems
            else ""
        )
        journal.end(problem)
    sys.stdout.flush()
    os._exit(3)  # interrupted: the parent knows in which test


def _interface(real: str) -> tuple[list[str], list[str]]:
    """The public names that a module defines, and the packages, not ours, that it imports."""
    names = []
    packages = []
    for node in ast.parse(real).body:
        names += [getattr(node, "name", "_")]
        names += [target.id for target in getattr(node, "targets", [])]
        if isinstance(node, ast.Import):
            packages += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            packages.append(node.module)
    names = [name for name in names if not name.startswith("_")]
    return names, [name for name in packages if name.partition(".")[0] != "ppad"]


def _tampered(snapshot, path: str, module: str) -> str:
    """How the tests' comparisons were tampered with, or "". path, module: the student's file and
    its name."""
    replaced = snapshot.replaced()
    if replaced:
        return f"your file replaced {replaced}"
    comparing = grading_checks.comparing_class(path, module)
    if comparing:
        return f"your file has {comparing}, which decides what tests see as equal"
    for canary in sys.modules["grading_canaries"].CANARIES:
        try:
            canary()
        except BaseException:  # pytest.fail raises no Exception
            continue
        return f"a check that must fail passed ({canary.__name__})"
    return ""


@contextmanager
def _replaced(given: dict, *modules):
    """In the block, `given` (name -> function) replaces the modules' functions of these names."""
    before = [(module, name, vars(module)[name]) for module in modules for name in given
              if name in vars(module)]  # fmt: skip
    for module, name, _ in before:
        setattr(module, name, given[name])
    try:
        yield
    finally:
        for module, name, function in before:
            setattr(module, name, function)


def _follow(parent: int) -> None:
    """Exit after the parent ended: if it is killed, this process must not keep running."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(4)


def _limit_resources(file: int, memory: int) -> None:
    """Limits, in bytes, that the student's file cannot raise again."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (file, file))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if sys.platform == "linux":
            resource.setrlimit(resource.RLIMIT_DATA, (memory + SLACK, memory + SLACK))
    except (ImportError, ValueError, OSError):
        pass  # Windows; or the system's own limit is lower


def _reason(text: str) -> str:
    """The most telling line of a failure, printable and short.

    It is pytest's last "E   " line, else the last line.
    """
    rows = [row for row in text.strip().splitlines() if row.strip()] or [""]
    best = ([row[1:] for row in rows if row.startswith("E  ")] or rows)[-1]
    best = best.strip().removeprefix("NotImplementedError: ")  # "not written yet: psi"
    best = "".join(c if c.isprintable() else " " for c in best).strip()[:300]
    return best.removesuffix(":")  # "SystemExit:" of an error without a message


def _absent(name: str):
    def absent(*_, **__):
        raise NotImplementedError(f"your file has no {name}")

    return absent


if __name__ == "__main__":
    main()
