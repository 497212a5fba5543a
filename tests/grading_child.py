"""Runs the rubric's tests on a student's module; started and watched by `ppad.grade`, in a folder of copies.

One line of JSON on standard input gives the orders. What happens is told to a journal, a line each, as it happens, so
that the watcher knows in which test this process hung or died.
"""

import importlib
import json
import os
import sys
import threading
import time

import pytest

SLACK = (
    2**31
)  # bytes (ours): this far above what the watcher lets pass, a single huge request fails by itself


def _reason(text: str) -> str:
    """The line of a failure that says most: pytest's last "E   " line, else the last line; one line, printable, short."""
    rows = [row for row in text.strip().splitlines() if row.strip()] or [""]
    best = ([row[1:] for row in rows if row.startswith("E  ")] or rows)[-1]
    return "".join(c if c.isprintable() else " " for c in best).strip()[:300]


def main() -> None:
    orders = json.loads(sys.stdin.readline())
    journal, word, me = (
        open(orders["journal"], "a", encoding="utf-8"),
        orders.pop("word"),
        os.getpid(),
    )

    def follow(watcher=os.getppid()):  # a watcher killed outright must not leave us at work
        while os.getppid() == watcher:
            time.sleep(1)
        os._exit(4)

    threading.Thread(target=follow, daemon=True).start()

    def tell(event: str, value=None, why: str = "") -> None:
        if os.getpid() == me:  # a fork of the student's has no say
            journal.write(json.dumps([word, event, value, why]) + "\n")
            journal.flush()

    def end(why: str = "") -> None:
        tell("end", None, why)
        os._exit(0)  # no thread of the student's can hold us here

    for name in orders["warm"]:
        importlib.import_module(name)
    try:  # the student's file cannot lift these again
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (orders["file"],) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if sys.platform == "linux":
            resource.setrlimit(resource.RLIMIT_DATA, (orders["memory"] + SLACK,) * 2)
    except (ImportError, ValueError, OSError):
        pass  # Windows; or the system's own limit is lower
    tell("phase", "import")
    try:
        module = importlib.import_module(f"ppad.{orders['component']}")
    except BaseException as error:  # SystemExit and KeyboardInterrupt too
        where = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        end(f"your file cannot be imported: {_reason(f'{type(error).__name__}: {error}')}{where}")
    missing = [name for name in orders["names"] if not hasattr(module, name)]
    for name in missing:  # so that only the tests that need it fail
        setattr(module, name, _absent(name))
    if missing:
        tell("note", why=f"your file has no {', '.join(missing)}")

    tell("phase", "its tests were collected")
    try:
        importlib.import_module("conftest")  # it imports modules that import the student's
    except BaseException as error:
        end(f"the tests could not use your file: {_reason(f'{type(error).__name__}: {error}')}")

    class Recorder:
        def pytest_collection_modifyitems(self, items):
            items[:] = [item for item in items if item.nodeid.partition("[")[0] in orders["tests"]]
            tell("collected", [item.nodeid for item in items])
            items[:] = [item for item in items if item.nodeid not in orders["done"]]

        def pytest_collectreport(self, report):
            if report.failed:
                problems.append(_reason(str(report.longrepr)))

        def pytest_runtest_logstart(self, nodeid):
            whys.clear()
            tell("start", nodeid)

        def pytest_runtest_logreport(self, report):
            if report.failed:
                crash = getattr(report.longrepr, "reprcrash", None)
                whys.append(
                    _reason(crash.message.partition("\n")[0] if crash else str(report.longrepr))
                    or "failed"
                )
            elif report.skipped:
                whys.append("skipped, which counts as not passed")

        def pytest_runtest_logfinish(self, nodeid):
            tell("result", nodeid, whys[0] if whys else "")

    problems, whys = [], []
    files = dict.fromkeys(test.partition("::")[0] for test in orders["tests"])
    status = pytest.main(
        [
            "-q",
            "-s",
            "--rootdir=.",
            "-p",
            "no:cacheprovider",
            "--continue-on-collection-errors",
            *files,
        ],
        plugins=[Recorder()],
    )
    if status != pytest.ExitCode.INTERRUPTED:
        end(f"the tests could not use your file: {problems[0]}" if problems else "")
    sys.stdout.flush()
    os._exit(3)  # interrupted: the watcher knows in which test


def _absent(name: str):
    def absent(*_, **__):
        raise NotImplementedError(f"your file has no {name}")

    return absent


if __name__ == "__main__":
    main()
