"""Rows at once, in forks, on a GPU too: the numbers of rows in turn, nothing lost by a stop."""

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from test_reproduce import numbers, read, run, started, started_fork

from ppad import files, loop, optim
from ppad.loop import Interrupted, LoopError

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(
    not hasattr(os, "fork"), reason="without fork the tasks run in turn"
)
ROWS = ["Ours", "Masked", "Noise(0.1)"]
T1 = 12  # steps of the game, during which a signal arrives


# ------------------------------------------------------------------ tasks


def test_two_at_a_time_each_in_its_own_process_with_one_thread(tmp_path):
    """Two tasks wait for each other, so they must run at once; a third waits for its turn."""

    def meet(mine, other):
        (tmp_path / mine).write_text(f"{os.getpid()} {torch.get_num_threads()}")
        deadline = time.monotonic() + 60
        while not (tmp_path / other).exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert not (tmp_path / "c").exists() or mine == "c"

    def third():
        (tmp_path / "c").write_text(f"{os.getpid()} {torch.get_num_threads()}")

    loop.side_by_side({"a": lambda: meet("a", "b"), "b": lambda: meet("b", "a"), "c": third}, 2)
    found = [(tmp_path / name).read_text().split() for name in "abc"]
    assert len({pid for pid, _ in found} | {str(os.getpid())}) == 4 and {
        threads for _, threads in found
    } == {"1"}


def test_one_job_works_here_and_in_order():
    done = []
    loop.side_by_side(
        {name: lambda name=name: done.append((name, os.getpid())) for name in "abc"}, 1
    )
    assert done == [(name, os.getpid()) for name in "abc"]


def explode(error):
    raise error


def is_there(number):
    """Whether a process exists; one that has ended does until its parent has asked for it."""
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(
    "bad, status, told",
    [
        (
            lambda: explode(ValueError("depth is 7: use 4, 10 or 20")),
            2,
            "ppad.reproduce: depth is 7: use 4, 10 or 20",
        ),
        (lambda: explode(LoopError("torn")), 2, "ppad.reproduce: torn"),
        (lambda: explode(TypeError("a mistake of ours")), 1, "TypeError: a mistake of ours"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), -9, ""),  # as when memory runs out
    ],
    ids=["ValueError", "LoopError", "TypeError", "killed"],
)
def test_a_task_that_fails_is_named_and_the_other_still_ends(tmp_path, capfd, bad, status, told):
    number = tmp_path / "number"  # of Bad's process

    def wrong():
        number.write_text(str(os.getpid()))
        bad()

    def good():  # until the parent has seen Bad end
        for _ in range(600):
            time.sleep(0.05)
            if number.exists() and number.read_text() and not is_there(int(number.read_text())):
                break
        (tmp_path / "good").touch()

    tasks = {"Good": good, "Bad": wrong, "Late": (tmp_path / "late").touch}
    with pytest.raises(
        LoopError, match=f"^Bad ended with status {status}: see above; the same command continues"
    ):
        loop.side_by_side(tasks, 2)
    assert (tmp_path / "good").exists() and not (tmp_path / "late").exists()  # nothing new is begun
    assert told in capfd.readouterr().err


def test_a_task_that_was_stopped_stops_the_run():
    with pytest.raises(Interrupted, match="the same command continues"):
        loop.side_by_side({"a": lambda: explode(KeyboardInterrupt()), "b": lambda: None}, 2)


# ------------------------------------------------------------------ how a task ends


@pytest.mark.parametrize(
    "error, status, sentence",
    [
        (ValueError("width is 0"), 2, "ppad.reproduce: width is 0\n"),
        (OSError(28, "No space left"), 2, "No space left"),
        (LoopError("torn"), 2, "ppad.reproduce: torn\n"),
        (Interrupted("stopped at step 3"), 130, "ppad.reproduce: stopped at step 3\n"),
        (
            torch.OutOfMemoryError("CUDA out of memory"),
            2,
            "ppad.reproduce: the GPU's memory is full: --check says what would fit",
        ),
        (MemoryError(), 2, "ppad.reproduce: the processor's memory is full: --check says"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 2, "memory is full: --check"),
        (KeyboardInterrupt(), 130, "continues from the last checkpoint\n"),
    ],
)
def test_one_sentence_for_what_a_user_can_mend(capsys, error, status, sentence):
    def work():
        raise error

    assert loop.exit_status(work) == status
    assert sentence in capsys.readouterr().err


def test_a_mistake_of_ours_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        loop.exit_status(lambda: 1 / 0)
    assert loop.exit_status(lambda: 0) == 0


# ------------------------------------------------------------------ on a GPU


def test_only_forks_ask_for_the_gpu(tmp_path, tiny_args, monkeypatch):
    """A process that has asked cannot fork others that use it. Here forks find none."""
    asked = tmp_path / "asked"

    def is_available():
        with asked.open("a") as file:
            file.write(f"{os.getpid()}\n")
        return True

    monkeypatch.setattr(torch.cuda, "is_available", is_available)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda index: SimpleNamespace(total_memory=16 * 2**30)
    )
    assert optim.gpu_memory() == 16
    assert run(*tiny_args, "--jobs", 2, "--device", "cuda", "--out", tmp_path / "run") == 2
    assert len(asked.read_text().split()) >= 2 and str(os.getpid()) not in asked.read_text().split()


def test_a_killed_run_leaves_no_fork_that_asks_for_the_gpu(monkeypatch):
    """Only processes that run hold the pipe's other end."""
    read_end, write_end = os.pipe()

    def is_available():
        os.write(write_end, b"1")
        time.sleep(60)

    monkeypatch.setattr(torch.cuda, "is_available", is_available)
    fork = os.fork()
    if not fork:
        optim.gpu_memory()
        os._exit(0)
    os.close(write_end)
    assert os.read(read_end, 1) == b"1"
    os.kill(fork, signal.SIGKILL)
    os.waitpid(fork, 0)
    assert select.select([read_end], [], [], 20)[0] and os.read(read_end, 1) == b""
    os.close(read_end)


def test_where_forks_cannot_ask_any_more_this_process_does(monkeypatch):
    """`is_available` alone, in a notebook say, is enough, though torch then counts no use."""
    here = os.getpid()

    def properties(index):
        if os.getpid() != here:
            raise RuntimeError("Cannot re-initialize CUDA in forked subprocess")
        return SimpleNamespace(total_memory=(16 + index) * 2**30)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    assert (
        optim.gpu_memory() == 16
        and optim.gpu_memory("cuda:1") == 17
        and optim.gpu_memory("cuda:2") == 0
    )


@pytest.mark.parametrize(
    "device, gpu, training, cores, wanted",
    [
        ("cpu", 0.0, 0.0, 2, 2),
        ("cpu", 0.0, 0.0, 64, 4),
        ("cpu", 0.0, 0.0, None, 1),
        ("cuda", 80.0, 3.0, 16, 4),
        ("cuda", 80.0, 3.0, 4, 2),
        ("cuda", 24.0, 3.0, 16, 2),
        ("cuda", 12.0, 10.0, 16, 1),
    ],
)
def test_how_many_rows_at_once(monkeypatch, device, gpu, training, cores, wanted):
    """On a GPU: 4/5 of its memory; each row twice its networks' memory, 1 GiB and two cores."""
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    need = {"training": training}
    assert optim.default_jobs(device, gpu, need) == wanted
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    # autograd's own threads do not survive a fork either
    assert optim.default_jobs(device, gpu, need) == 1
    monkeypatch.setattr(optim, "CAN_FORK", False)
    assert optim.default_jobs(device, gpu, need) == 1


@pytest.mark.gpu
def test_two_rows_side_by_side_on_a_gpu(tmp_path, tiny_args):
    """In a process of its own: this one may have used the GPU."""
    words = [
        *tiny_args,
        "--jobs",
        "2",
        "--rows",
        "Masked",
        "Edge",
        "--device",
        "cuda",
        "--out",
        tmp_path,
    ]
    done = subprocess.run(
        [sys.executable, "-m", "ppad.reproduce", *map(str, words)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert read(tmp_path / "results.json")["hardware"]["gpu_peak_gb_a_row"] > 0


# ------------------------------------------------------------------ the main job


@pytest.fixture(scope="module")
def in_turn(tiny_args, tmp_path_factory):
    """A run of ROWS one after the other, in a game that is long enough to be stopped."""
    out = tmp_path_factory.mktemp("in_turn")
    assert run(*tiny_args, "--jobs", 1, "--rows", *ROWS, "--T1", T1, "--out", out) == 0
    return out


def test_two_jobs_give_the_numbers_of_one(in_turn, tiny_args, tmp_path):
    """Every row.json, whatever runs beside it; torch has one thread in both (see conftest)."""
    assert run(*tiny_args, "--jobs", 2, "--rows", *ROWS, "--T1", T1, "--out", tmp_path) == 0
    for row in ROWS:
        place = Path("seed0", files.file_name(row), "row.json")
        one, two = (numbers(out / place) for out in (in_turn, tmp_path))
        assert one == two and one["name"] == row
    one, two = (read(out / "results.json") for out in (in_turn, tmp_path))
    assert (
        one["rows"] == two["rows"]
        and one["controls"] == two["controls"]
        and one["budget"] == two["budget"]
    )
    assert (one["hardware"]["jobs"], two["hardware"]["jobs"]) == (1, 2)
    assert {path.name for path in in_turn.iterdir()} == {path.name for path in tmp_path.iterdir()}


def test_a_wrong_value_found_in_a_fork_ends_with_2_and_a_sentence(tiny_args, tmp_path, capfd):
    damaged = tmp_path / "damaged.pt"
    damaged.write_text("no tensors")
    words = ["--jobs", 2, "--recognizer_weights", damaged, "--out", tmp_path / "run"]
    assert run(*tiny_args, *words) == 2
    error = capfd.readouterr().err
    assert (
        f"ppad.reproduce: recognizer_weights {damaged} does not fit D" in error
        and "Traceback" not in error
    )
    assert (
        "start: recognizer ended with status 2" in error
        and "see above; the same command continues" in error
    )


def test_ctrl_c_saves_every_row_ends_with_130_and_goes_on(in_turn, tiny_args, tmp_path):
    """A terminal sends Ctrl-C to the parent and all its forks. The numbers are those of one run."""
    words = [*tiny_args, "--jobs", "2", "--rows", "Ours", "Masked", "--T1", T1]
    log = tmp_path / "messages"
    process = started_fork(words, tmp_path, "seed0/Ours/sample_game_000002.png", log)
    os.killpg(process.pid, signal.SIGINT)
    process.join(60)
    error = log.read_text()
    assert process.exitcode == 130
    assert (
        "stopped at Ours game step" in error
        and "\nppad.reproduce: stopped; the same command continues from the last checkpoint"
        in error
    )
    assert "Traceback" not in error and not list(tmp_path.rglob(".*.part"))
    assert not (tmp_path / "seed0/Ours/row.json").exists()
    assert run(*words, "--out", tmp_path) == 0
    for row in ("Ours", "Masked"):
        place = Path("seed0", row, "row.json")
        assert numbers(tmp_path / place) == numbers(in_turn / place)


@pytest.mark.parametrize("to_all", [False, True])
def test_sigterm_saves_every_row_and_ends_with_130(tiny_args, tmp_path, to_all):
    """`kill` sends it to the parent alone, a batch system to all: both as Ctrl-C."""
    words = [*tiny_args, "--jobs", "2", "--rows", "Ours", "Masked", "--T1", "100000"]
    log = tmp_path / "messages"
    process = started_fork(words, tmp_path, "seed0/Ours/sample_game_000002.png", log)
    if to_all:
        os.killpg(process.pid, signal.SIGTERM)
    else:
        process.terminate()
    process.join(60)
    error = log.read_text()
    assert process.exitcode == 130 and "Traceback" not in error
    assert error.count("stopped at Ours game step") == 1
    assert "\nppad.reproduce: stopped; the same command continues from the last checkpoint" in error
    assert not list(tmp_path.rglob(".*.part")) and read(tmp_path / "minutes.json")["minutes"] > 0


def test_forks_of_a_killed_parent_do_not_go_on_writing(tiny_args, tmp_path):
    """Else the run that is started again would have a rival in its folder."""
    words = [
        *tiny_args,
        "--jobs",
        "2",
        "--rows",
        "Ours",
        "--T1",
        "100000",
        "--sample_every",
        "100000",
    ]
    process = started(words, tmp_path, "seed0/Ours/checkpoint.pt")
    log = tmp_path / "seed0/Ours/log.jsonl"
    process.kill()
    process.communicate(timeout=60)  # its pipe closes when the last fork has gone
    size = log.stat().st_size
    time.sleep(0.5)
    assert log.stat().st_size == size > 0
