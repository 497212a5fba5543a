"""Rows side by side in forked processes: the same numbers as in turn, and nothing lost when one of them, or all, stop."""
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from test_reproduce import numbers, read, run

from ppad import reproduce
from ppad.loop import Interrupted, LoopError

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="without fork the tasks run in turn")
ROWS = ["Ours", "Masked", "Noise(0.1)"]


# ------------------------------------------------------------------ tasks

def test_two_at_a_time_each_in_its_own_process_with_one_thread(tmp_path):
    """Two tasks that wait for each other can only end side by side; the third comes when one of them has ended."""
    def meet(mine, other):
        (tmp_path / mine).write_text(f"{os.getpid()} {torch.get_num_threads()}")
        deadline = time.monotonic() + 60
        while not (tmp_path / other).exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert not (tmp_path / "c").exists() or mine == "c"

    def third():
        (tmp_path / "c").write_text(f"{os.getpid()} {torch.get_num_threads()}")
    reproduce.together({"a": lambda: meet("a", "b"), "b": lambda: meet("b", "a"), "c": third}, 2)
    found = [(tmp_path / name).read_text().split() for name in "abc"]
    assert len({pid for pid, _ in found} | {str(os.getpid())}) == 4 and {threads for _, threads in found} == {"1"}


def test_one_job_works_here_and_in_order():
    done = []
    reproduce.together({name: lambda name=name: done.append((name, os.getpid())) for name in "abc"}, 1)
    assert done == [(name, os.getpid()) for name in "abc"]


def explode(error):
    raise error


@pytest.mark.parametrize("bad, status, told", [
    (lambda: explode(ValueError("depth is 7: use 4, 10 or 20")), 2, "ppad.reproduce: depth is 7: use 4, 10 or 20"),
    (lambda: explode(LoopError("torn")), 2, "ppad.reproduce: torn"),
    (lambda: explode(TypeError("a mistake of ours")), 1, "TypeError: a mistake of ours"),
    (lambda: os.kill(os.getpid(), signal.SIGKILL), -9, ""),                    # as when memory runs out
], ids=["ValueError", "LoopError", "TypeError", "killed"])
def test_a_task_that_fails_is_named_and_the_other_still_ends(tmp_path, capfd, bad, status, told):
    def good():
        time.sleep(0.3)
        (tmp_path / "good").touch()
    tasks = {"Good": good, "Bad": bad, "Late": (tmp_path / "late").touch}
    with pytest.raises(LoopError, match=f"^Bad ended with status {status}: see above; the same command goes on"):
        reproduce.together(tasks, 2)
    assert (tmp_path / "good").exists() and not (tmp_path / "late").exists()   # nothing new is begun
    assert told in capfd.readouterr().err


def test_a_task_that_was_stopped_stops_the_run():
    with pytest.raises(Interrupted, match="the same command goes on"):
        reproduce.together({"a": lambda: explode(KeyboardInterrupt()), "b": lambda: None}, 2)


# ------------------------------------------------------------------ the main job

def test_two_jobs_give_the_numbers_of_one(tiny_args, tmp_path):
    """Every row.json, whatever runs beside it; torch has one thread in both (see conftest)."""
    for jobs in (1, 2):
        assert run(*tiny_args, "--jobs", jobs, "--rows", *ROWS, "--out", tmp_path / str(jobs)) == 0
    for row in ROWS:
        one, two = (numbers(tmp_path / jobs / "seed0" / reproduce.file_name(row) / "row.json") for jobs in "12")
        assert one == two and one["name"] == row
    one, two = (read(tmp_path / jobs / "results.json") for jobs in "12")
    assert one["rows"] == two["rows"] and one["controls"] == two["controls"] and one["budget"] == two["budget"]
    assert (one["hardware"]["jobs"], two["hardware"]["jobs"]) == (1, 2)
    assert {path.name for path in (tmp_path / "1").iterdir()} == {path.name for path in (tmp_path / "2").iterdir()}


def test_a_wrong_value_found_in_a_fork_ends_with_2_and_a_sentence(tiny_args, tmp_path, capfd):
    assert run(*tiny_args, "--jobs", 2, "--recognizer_depth", 7, "--out", tmp_path) == 2
    error = capfd.readouterr().err
    assert "ppad.reproduce: depth must be one of [4, 10, 20], but is 7" in error and "Traceback" not in error
    assert "start ended with status 2" in error and "see above; the same command goes on" in error      # A's start makes a D, too


def started(words, out, wait_for):
    """The main job in a session of its own, as a terminal would start it, once the file `wait_for` is there."""
    command = [sys.executable, "-m", "ppad.reproduce", *map(str, words), "--checkpoint_seconds", "0", "--out", str(out)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
                               env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 120
    while not (out / wait_for).exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    assert (out / wait_for).exists(), process.stderr.read()
    return process


def test_ctrl_c_saves_every_row_ends_with_130_and_goes_on(tiny_args, tmp_path):
    """A terminal sends Ctrl-C to the parent and to all its forks. Afterwards the numbers are those of an unbroken run."""
    words = [*tiny_args, "--jobs", "2", "--rows", "Ours", "Masked", "--T1", "30"]
    process, out = started(words, tmp_path / "stopped", "seed0/Ours/sample_game_000002.png"), tmp_path / "stopped"
    os.killpg(process.pid, signal.SIGINT)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "stopped at Ours game step" in error and "\nppad.reproduce: stopped; the same command goes on from the last checkpoint" in error
    assert "Traceback" not in error and not list(out.rglob("*.tmp"))
    assert not (out / "seed0/Ours/row.json").exists()
    assert run(*words, "--out", out) == 0
    assert run(*words, "--jobs", "1", "--out", tmp_path / "unbroken") == 0
    for row in ("Ours", "Masked"):
        assert numbers(out / "seed0" / row / "row.json") == numbers(tmp_path / "unbroken/seed0" / row / "row.json")


def test_forks_of_a_killed_parent_do_not_go_on_writing(tiny_args, tmp_path):
    """Else the run that is started again would have a rival in its folder."""
    words = [*tiny_args, "--jobs", "2", "--rows", "Ours", "--T1", "100000", "--sample_every", "100000"]
    process, log = started(words, tmp_path, "seed0/Ours/checkpoint.pt"), tmp_path / "seed0/Ours/log.jsonl"
    process.kill()
    process.communicate(timeout=60)                                            # its pipe closes when the last fork has gone
    size = log.stat().st_size
    time.sleep(0.5)
    assert log.stat().st_size == size > 0
