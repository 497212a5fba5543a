"""The loop: what is on disk after every kind of stop, and that resuming changes no bit."""

import contextlib
import errno
import json
import os
import signal
import time

import pytest
import torch
from torch import nn

from ppad import files
from ppad.files import WriteError
from ppad.loop import (
    Interrupted,
    Loop,
    LoopError,
    counted_minutes,
    exit_status,
    read_checkpoint,
    read_log,
)

SETTINGS = {"rate": 0.1, "seed": 7}


class Run:
    """A small problem: a linear layer, Adam (which has a state), random numbers in every step."""

    def __init__(self, folder, every=3, seconds=1e9, settings=SETTINGS, width=3, init=0):
        torch.manual_seed(init)
        self.net = nn.Linear(width, 2)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=0.1)
        self.loop = Loop(folder, "test", 7, settings, log_every=every, checkpoint_seconds=seconds)
        self.before = {}  # step -> what to do as it begins
        self.extra = {}  # step -> value of a second term
        self.seen = []

    def step(self, number):
        """The body of the loop."""
        self.before.get(number, lambda: None)()
        self.seen.append(number)
        loss = self.net(torch.randn(4, self.net.in_features)).pow(2).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.loop.log({"loss": loss, "other": torch.tensor(self.extra.get(number, 1.0))})

    def start(self):
        self.loop.start(net=self.net, optimizer=self.optimizer)
        return self

    def go(self, steps=12):
        self.start()
        for number in self.loop.steps("train", steps):
            self.step(number)
        return self

    def state(self):
        """Everything that must be equal at the end, flattened."""
        flat = [
            *self.net.state_dict().values(),
            torch.get_rng_state(),
            *self.optimizer.param_groups[0]["params"],
        ]
        for moments in self.optimizer.state_dict()["state"].values():
            flat += [moments[key] for key in sorted(moments)]
        return flat


def same(a, b):
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b))


def lines(folder):
    return [(line["stage"], line["step"]) for line in read_log(folder / "log.jsonl")]


class PowerCut(Exception):
    pass


def cut():
    raise PowerCut


@pytest.fixture
def unbroken(tmp_path):
    return Run(tmp_path / "unbroken").go()


# ------------------------------------------------------------------ resuming


def test_resumed_run_equals_unbroken_one_bit_for_bit(tmp_path, unbroken):
    first = Run(tmp_path / "a")
    first.before = {
        5: lambda: first.loop.save(),
        8: cut,
    }  # checkpoint at 4, a log line for 6, power lost in 8
    with pytest.raises(PowerCut):
        first.go()
    assert lines(tmp_path / "a") == [("train", 3), ("train", 6)]
    second = Run(tmp_path / "a", init=99).go()  # other initial weights: all must come from the file
    assert second.seen == list(range(5, 13))
    assert same(second.state(), unbroken.state())
    assert (
        lines(tmp_path / "a")
        == lines(tmp_path / "unbroken")
        == [("train", n) for n in (3, 6, 9, 12)]
    )


def test_a_stop_before_the_first_checkpoint_leaves_nothing_behind(tmp_path, unbroken):
    first = Run(tmp_path / "a")
    first.before = {8: cut}
    with pytest.raises(PowerCut):
        first.go()
    second = Run(tmp_path / "a").go()
    assert same(second.state(), unbroken.state()) and lines(tmp_path / "a") == lines(
        tmp_path / "unbroken"
    )


def test_seed_is_the_loops_own(tmp_path, unbroken):
    torch.manual_seed(31415)
    other = Run(tmp_path / "a")
    torch.rand(17)
    assert same(other.go().state(), unbroken.state())


def test_finished_stages_are_not_run_again(tmp_path):
    order = []

    def both(run):
        run.start()
        for name in ("one", "two"):
            for number in run.loop.steps(name, 2):
                order.append((name, number))
                run.step(number)

    both(Run(tmp_path))
    both(Run(tmp_path))
    assert order == [("one", 1), ("one", 2), ("two", 1), ("two", 2)]
    assert lines(tmp_path) == [("one", 2), ("two", 2)]


def test_a_longer_stage_goes_on(tmp_path, unbroken):
    Run(tmp_path / "a").go(5)
    assert same(Run(tmp_path / "a").go(12).state(), unbroken.state())


def test_a_body_without_a_log_line_is_saved_all_the_same(tmp_path):
    loop = Loop(tmp_path, "test", 7, SETTINGS)
    loop.start()
    assert list(loop.steps("train", 3)) == [1, 2, 3]
    assert loop.done == read_checkpoint(tmp_path / "checkpoint.pt")["done"] == {"train": 3}


def test_log_holds_the_mean_since_the_last_line(tmp_path):
    run = Run(tmp_path)
    run.extra = {1: 1.0, 2: 2.0, 3: 6.0, 4: 10.0}
    run.go(4)
    assert [line["other"] for line in read_log(tmp_path / "log.jsonl")] == [3.0, 10.0]


@pytest.mark.parametrize("seconds", [0.0, 1e9])
def test_log_does_not_depend_on_when_checkpoints_are_written(tmp_path, seconds):
    """Nor on a stop: what was read before it counts in the next line."""
    values = {step: float(step) for step in range(1, 11)}
    for stop in (3, 7, None):
        run = Run(tmp_path, every=5, seconds=seconds)
        run.extra = values
        run.before = {stop: lambda: signal.raise_signal(signal.SIGINT)}
        with pytest.raises(Interrupted) if stop else contextlib.nullcontext():
            run.go(10)
    shown = [(line["step"], line["other"]) for line in read_log(tmp_path / "log.jsonl")]
    assert shown == [(5, 3.0), (10, 8.0)]


def test_a_log_that_cannot_be_written_is_named(tmp_path):
    run = Run(tmp_path)
    run.before = {1: lambda: (tmp_path / "log.jsonl").mkdir()}
    with pytest.raises(OSError, match=r"cannot write .*log\.jsonl .*choose another place"):
        run.go(3)


@pytest.mark.parametrize("damage", ["", "[1]", "5", '{"step": 1}'])
def test_a_log_is_read_up_to_a_line_that_is_none(tmp_path, damage):
    path = tmp_path / "log.jsonl"
    line = {"stage": "train", "step": 1, "loss": 0.5}
    path.write_text("\n".join([json.dumps(line), damage, json.dumps(line)]))
    assert read_log(path) == [line]
    path.unlink()
    with pytest.raises(LoopError, match=r"log\.jsonl does not exist: delete the folder"):
        read_log(path)


def test_checkpoints_follow_the_clock(tmp_path):
    run = Run(tmp_path, seconds=0)
    there = []
    run.before = {
        n: lambda: there.append(read_checkpoint(tmp_path / "checkpoint.pt")["done"]["train"])
        for n in (2, 3)
    }
    run.go(3)
    assert there == [1, 2]
    assert read_checkpoint(tmp_path / "checkpoint.prev.pt")["done"] == {"train": 2}


# ------------------------------------------------------------------ a full disk, a torn file


def half_a_file(error):
    def save(state, path):
        path.write_bytes(b"half")
        raise error

    return save


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("PytorchStreamWriter failed writing file data/1: file write failed"),
    ],
)
def test_full_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch, unbroken, error):
    run = Run(tmp_path / "a")
    run.go(4)
    old = (tmp_path / "a/checkpoint.pt").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", half_a_file(error))
        with pytest.raises(
            WriteError, match=r"cannot write .*checkpoint\.pt .*free some disk space"
        ):
            Run(tmp_path / "a").go()
    assert (tmp_path / "a/checkpoint.pt").read_bytes() == old
    assert not list((tmp_path / "a").glob("*.part"))
    assert same(Run(tmp_path / "a").go().state(), unbroken.state())


def test_a_stop_between_the_two_renames_goes_on_from_the_previous(tmp_path, unbroken):
    run = Run(tmp_path / "a", seconds=0)
    run.go(5)
    os.remove(tmp_path / "a/checkpoint.pt")  # as if the last rename had not happened
    resumed = Run(tmp_path / "a")
    assert same(resumed.go().state(), unbroken.state()) and resumed.seen[0] == 5


@pytest.mark.parametrize(
    "spoil",
    [lambda data: b"<html>not found</html>", lambda data: data[: len(data) // 2], lambda data: b""],
)
def test_corrupt_checkpoint_is_named_and_the_previous_offered(tmp_path, unbroken, spoil):
    path = tmp_path / "a/checkpoint.pt"
    Run(tmp_path / "a", seconds=0).go(5)
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(
        LoopError,
        match=r"checkpoint\.pt cannot be read .*delete it to go on from checkpoint\.prev\.pt",
    ):
        Run(tmp_path / "a").start()
    path.unlink()
    resumed = Run(tmp_path / "a")
    assert same(resumed.go().state(), unbroken.state()) and resumed.seen[0] == 5
    assert len(lines(tmp_path / "a")) == len(set(lines(tmp_path / "a")))


def test_corrupt_checkpoint_without_a_previous(tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes(b"junk")
    with pytest.raises(LoopError, match="delete it to start over"):
        Run(tmp_path).start()


def test_checkpoint_is_loaded_without_running_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "pwned"),)

    torch.save({"settings": Evil()}, tmp_path / "checkpoint.pt")
    with pytest.raises(LoopError, match="cannot be read"):
        Run(tmp_path).start()
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    "settings", [{"rate": 0.2, "seed": 7}, {"seed": 7}, {"rate": 0.1, "seed": 7, "T1": 3}]
)
def test_other_settings_are_refused_by_name(tmp_path, settings):
    Run(tmp_path).go(3)
    old = (tmp_path / "checkpoint.pt").read_bytes()
    field = "T1" if "T1" in settings else "rate"
    with pytest.raises(
        LoopError, match=rf"another configuration \({field}: .*choose another --out"
    ):
        Run(tmp_path, settings=settings).start()
    assert (tmp_path / "checkpoint.pt").read_bytes() == old


@pytest.mark.parametrize(
    "other",
    [{"weights": torch.zeros(2)}, torch.zeros(3), [1, 2], {"settings": 1, "done": {}, "parts": {}}],
)
def test_a_file_of_something_else_is_no_checkpoint(tmp_path, other):
    torch.save(other, tmp_path / "checkpoint.pt")
    with pytest.raises(LoopError, match="is no checkpoint of this program: move it away"):
        Run(tmp_path).start()


def test_parts_of_another_size_are_refused(tmp_path):
    Run(tmp_path).go(3)
    with pytest.raises(LoopError, match="does not fit this program .*move it away"):
        Run(tmp_path, width=5).start()


# ------------------------------------------------------------------ stops while running


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_non_finite_term_stops_with_step_and_name(tmp_path, value):
    run = Run(tmp_path, every=3)
    run.before = {4: lambda: run.loop.save()}
    run.extra = {5: value}
    with pytest.raises(
        LoopError, match=r"test: the term 'other' became (nan|inf) at step 5 of stage 'train'"
    ):
        run.go()
    assert run.seen[-1] == 6  # noticed when the line for 6 was due
    assert read_checkpoint(tmp_path / "checkpoint.pt")["done"] == {"train": 3}


def test_a_non_finite_term_is_never_checkpointed(tmp_path):
    run = Run(tmp_path, every=1000, seconds=0)
    run.extra = {5: float("nan")}
    with pytest.raises(LoopError, match="step 5"):
        run.go()
    assert run.seen[-1] == 5 and read_checkpoint(tmp_path / "checkpoint.pt")["done"] == {"train": 4}


@pytest.mark.parametrize("at", [5, 12])
@pytest.mark.parametrize("name", ["SIGINT", *files.STOPS])
def test_ctrl_c_and_the_like_save_and_the_run_goes_on(tmp_path, unbroken, name, at):
    if not hasattr(signal, name):
        pytest.skip(f"{name} is not a signal here")
    number = getattr(signal, name)
    handler = signal.getsignal(number)
    if handler == signal.SIG_IGN:
        pytest.skip(f"{name} is ignored here")
    run = Run(tmp_path / "a")
    run.before = {at: lambda: signal.raise_signal(number)}
    with pytest.raises(Interrupted, match=f"step {at}; the same command continues"):
        run.go()
    assert run.seen[-1] == at  # the step under way ended whole
    assert signal.getsignal(number) is handler
    assert read_checkpoint(tmp_path / "a/checkpoint.pt")["done"] == {"train": at}
    resumed = Run(tmp_path / "a", init=99).go()
    assert same(resumed.state(), unbroken.state()) and resumed.seen == list(range(at + 1, 13))
    assert lines(tmp_path / "a") == lines(tmp_path / "unbroken")


def test_the_signal_handler_is_restored_when_an_error_ends_the_loop(tmp_path):
    handler = signal.getsignal(signal.SIGINT)
    run = Run(tmp_path)
    run.before = {2: cut}
    with pytest.raises(PowerCut):
        run.go()
    assert signal.getsignal(signal.SIGINT) is handler
    for _ in run.loop.steps("other", 3):
        assert signal.getsignal(signal.SIGINT) is not handler
        break
    assert signal.getsignal(signal.SIGINT) is handler


def twice(number):
    signal.raise_signal(number)
    signal.raise_signal(number)


def test_a_second_sigterm_lets_the_step_end(tmp_path):
    """A batch system may send it to every process of a run, which get the parent's as well."""
    run = Run(tmp_path)
    run.before = {2: lambda: twice(signal.SIGTERM)}
    with pytest.raises(Interrupted, match="step 2"):
        run.go()
    assert read_checkpoint(tmp_path / "checkpoint.pt")["done"] == {"train": 2}


def test_what_ignores_a_signal_goes_on_ignoring_it(tmp_path):
    """As `nohup` has it: a closed terminal does not end the run."""
    if not hasattr(signal, "SIGHUP"):
        pytest.skip("SIGHUP is not a signal here")
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        run = Run(tmp_path)
        run.before = {2: lambda: signal.raise_signal(signal.SIGHUP)}
        run.go()
        assert run.seen[-1] == 12 and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_sigterm_between_the_stages_ends_with_130_and_once(capsys):
    cleared = []

    def work():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)
            cleared.append("all")  # the second did not break into it

    before = signal.getsignal(signal.SIGTERM)
    assert exit_status(work) == 130 and cleared == ["all"]
    assert signal.getsignal(signal.SIGTERM) is before
    assert "stopped; the same command continues" in capsys.readouterr().err


def test_second_ctrl_c_stops_at_once(tmp_path):
    run = Run(tmp_path)
    run.before = {2: lambda: twice(signal.SIGINT)}
    with pytest.raises(KeyboardInterrupt) as stop:
        run.go()
    assert not isinstance(stop.value, Interrupted) and run.seen == [1]


# ------------------------------------------------------------------ small tools


def test_progress_is_printed(tmp_path, capsys):
    Run(tmp_path).go(3)
    assert "test train 3/3  loss" in capsys.readouterr().err


def test_progress_comes_in_lines_a_person_can_follow(tmp_path, capsys, monkeypatch):
    """The log has every line; the terminal the first and the last, the others seconds apart."""
    Run(tmp_path, every=1).go(12)
    printed = [
        line for line in capsys.readouterr().err.splitlines() if line.startswith("test train")
    ]
    assert [line.split()[2] for line in printed] == ["1/12", "12/12"] and len(
        read_log(tmp_path / "log.jsonl")
    ) == 12
    monkeypatch.setattr("ppad.loop.SECONDS_BETWEEN_LINES", -1)
    Run(tmp_path / "all", every=3).go(12)
    assert capsys.readouterr().err.count("test train") == 4


def test_the_seconds_of_training_are_in_the_checkpoint(tmp_path):
    run = Run(tmp_path).go()
    assert read_checkpoint(tmp_path / "checkpoint.pt")["seconds"] == run.loop.seconds > 0


def test_read_log_leaves_a_torn_last_line_out(tmp_path):
    (tmp_path / "log.jsonl").write_text(
        json.dumps({"stage": "train", "step": 1}) + '\n{"stage": "tr'
    )
    assert read_log(tmp_path / "log.jsonl") == [{"stage": "train", "step": 1}]


def test_read_checkpoint_of_nothing(tmp_path):
    with pytest.raises(LoopError, match="does not exist"):
        read_checkpoint(tmp_path / "checkpoint.pt")


def test_what_is_renamed_is_on_the_disk_first(tmp_path, monkeypatch):
    """Else a machine that goes down may keep the new name and lose the content."""
    happened = []
    sync = os.fsync
    replace = os.replace
    monkeypatch.setattr(os, "fsync", lambda file: happened.append("content") or sync(file))
    monkeypatch.setattr(os, "replace", lambda *names: happened.append("name") or replace(*names))
    Run(tmp_path / "a").go(1)
    assert happened == ["content", "name"]


def test_going_on_with_fewer_gpus(tmp_path, monkeypatch):
    """A checkpoint of four GPUs on a machine with one."""
    run = Run(tmp_path / "a")
    restored = []
    run.go(1)
    path = tmp_path / "a/checkpoint.pt"
    torch.save(
        {**read_checkpoint(path), "cuda_rng": [torch.zeros(16, dtype=torch.uint8)] * 4}, path
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(
        torch.cuda, "set_rng_state_all", lambda states: restored.append(len(states))
    )
    Run(tmp_path / "a").go(1)  # nothing to do but to load
    assert restored == [1]


# ------------------------------------------------------------------ minutes


def test_minutes_are_counted_also_where_an_error_ends_the_work(tmp_path, monkeypatch):
    path = tmp_path / "minutes.json"
    times = iter([0, 120, 1000, 1030])  # two minutes, then half a minute
    monkeypatch.setattr(time, "monotonic", lambda: next(times))
    with counted_minutes(path):
        pass
    with pytest.raises(KeyboardInterrupt), counted_minutes(path):
        raise KeyboardInterrupt
    assert json.loads(path.read_text()) == {"minutes": 2.5}
