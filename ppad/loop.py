"""A training loop that can be stopped and resumed: progress, a log, checkpoints (ours).

A `Loop` owns a folder and named parts (anything with `state_dict` and `load_state_dict`: networks,
optimizers), and counts the steps of named stages:

    loop.start(network=network, optimizer=optimizer)
    for step in loop.steps("train", 1000):
        ...
        loop.log({"loss": loss})

After any stop, planned or not, the same lines continue from the last checkpoint:

* `checkpoint.pt` holds every part, the steps done in each stage and the random states. It is
  written completely or not at all, and the previous one is kept as `checkpoint.prev.pt`;
* `log.jsonl` has a line every `log_every` steps; lines past the checkpoint are dropped on resuming;
* after Ctrl-C or another signal to stop (`files.STOPS`), the loop finishes the step, saves and
  stops. If a term is not finite, an error stops the run and names the term.

If several processes train together (`ppad.optim`), each runs the loop, only the main process
writes, and all save and stop after the same step.
"""

import errno
import json
import math
import multiprocessing
import multiprocessing.connection
import os
import signal
import statistics
import sys
import threading
import time
import zipfile
from collections import Counter
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from ppad import files, optim
from ppad.config import unlike

SECONDS_BETWEEN_LINES = 5  # ours: progress a person can follow, also when two rows report
TRIAL_STEPS = 5  # ours: the median of five leaves out the first, which is slower
TRIAL_SECONDS = 60  # ours: after this time, a stage's trial ends early
SEED_STRIDE = 1_000_003  # ours: between processes; larger than gaps between a run's own seeds


class LoopError(RuntimeError):
    """A run that cannot go on; the message says why and what to do."""


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop, by Ctrl-C for instance, and the state is saved."""


@dataclass(eq=False)
class Loop:
    """Training in stages; `done` counts the steps of each and `seconds` the time, over all calls.

    Args:
        folder: created if absent. title: the run's name in progress lines.
        seed: seeds torch if there is no checkpoint.
        settings: plain dict; a checkpoint with other settings is refused, naming the difference.
        log_every: steps between log lines. Terms are read and checked only then and before a save.
        checkpoint_seconds: time between checkpoints.
    """

    folder: Path
    title: str
    seed: int
    settings: dict
    log_every: int = 20
    checkpoint_seconds: float = 120

    def __post_init__(self):
        self.folder = Path(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path = self.folder / "checkpoint.pt"
        self.previous = self.folder / "checkpoint.prev.pt"
        self.log_path = self.folder / "log.jsonl"
        self.parts: dict[str, object] = {}
        self.done: Counter[str] = Counter()
        self.seconds = 0.0
        self.unchecked: list[dict] = []  # terms of the steps since the last check
        self.unlogged: list[dict] = []  # checked terms of the steps since the last log line

    def start(self, **parts) -> None:
        """Register the parts; load the checkpoint if there is one, else seed torch."""
        self.parts = parts
        torch.manual_seed(self.seed + SEED_STRIDE * optim.rank())
        if self.path.exists() or self.previous.exists():
            self._load()
        elif optim.is_main_process():
            self.log_path.unlink(missing_ok=True)  # from a run without a checkpoint

    def steps(self, stage: str, steps: int):
        """Yield the numbers (from 1) of the steps of `stage` that are not done yet.

        The loop's body calls `log` once. Saves at the end and every `checkpoint_seconds`. Raises
        LoopError for a term that is not finite, and Interrupted after Ctrl-C; a run can resume
        after both.
        """
        first = self.done[stage]
        began = saved = time.monotonic()
        self.unchecked = []
        self.last_print = -math.inf
        with _delayed_interrupt() as pressed:
            for step in range(first + 1, steps + 1):
                yield step
                self.done[stage] = step
                now = time.monotonic()
                due = now - saved > self.checkpoint_seconds
                stop, due = optim.any_process(pressed.is_set(), due)
                save = stop or due or step == steps
                show = step == steps or step % self.log_every == 0
                if save or show:
                    self._check(stage)
                if show:
                    left = (now - began) / (step - first) * (steps - step)
                    self._show(stage, step, steps, left)
                if save:
                    self.seconds += now - saved
                    saved = now
                    self.save()
                if stop:
                    place = f"{self.title} {stage} step {step}"
                    raise Interrupted(f"stopped at {place}; the same command continues from here")

    def log(self, terms: dict) -> None:
        """Record the terms of this step, name -> scalar tensor; the log shows their means."""
        self.unchecked.append({name: value.detach() for name, value in terms.items()})

    def save(self) -> None:
        """Write the checkpoint; keep the previous as `checkpoint.prev.pt`. Raises WriteError."""
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        main, *others = optim.all_gather({"rng": torch.get_rng_state(), "cuda_rng": cuda})
        state = {
            "parts": {name: part.state_dict() for name, part in self.parts.items()},
            "done": dict(self.done),
            "settings": self.settings,
            "seconds": self.seconds,
            "unlogged": self.unlogged,
            "others": others,
            **main,
        }
        optim.run_on_main(lambda: save_tensors(self.path, state, self.previous))

    def _load(self) -> None:
        path = self.path if self.path.exists() else self.previous
        state = read_checkpoint(path)
        needs = ("settings", "done", "parts")
        if not all(isinstance(state, dict) and isinstance(state.get(key), dict) for key in needs):
            raise LoopError(f"{path} is no checkpoint of this program: move it away to start over")
        if different := unlike(state["settings"], self.settings):
            fault = f"belongs to another configuration ({'; '.join(different)})"
            raise LoopError(f"{path} {fault}: choose another --out or the same settings")
        try:
            for name, part in self.parts.items():
                part.load_state_dict(state["parts"][name])
        except (KeyError, RuntimeError, ValueError) as error:
            fault = f"does not fit this program ({str(error).splitlines()[0]})"
            raise LoopError(f"{path} {fault}: move it away to start over") from error
        self.done = Counter(state["done"])
        self.seconds = state["seconds"]
        self.unlogged = state["unlogged"]
        states = [state, *state["others"]]  # by rank
        if optim.rank() < len(states):  # else this run has more processes than before
            own = states[optim.rank()]
            torch.set_rng_state(own["rng"])
            if torch.cuda.is_available():  # perhaps with fewer GPUs than before
                torch.cuda.set_rng_state_all(own["cuda_rng"][: torch.cuda.device_count()])
        if optim.is_main_process() and self.log_path.exists():
            lines = read_log(self.log_path)
            kept = [line for line in lines if line["step"] <= self.done[line["stage"]]]
            text = "".join(json.dumps(line) + "\n" for line in kept)
            if text != self.log_path.read_text():
                files.write_file(self.log_path, text)

    def _show(self, stage: str, step: int, steps: int, left: float) -> None:
        """Write a line of the log, the mean of each term since the last one; print progress."""
        terms = {}
        for name in self.unlogged[0] if self.unlogged else ():
            terms[name] = round(statistics.fmean(row[name] for row in self.unlogged), 5)
        self.unlogged = []
        if not optim.is_main_process():
            return
        try:
            with self.log_path.open("a") as file:
                file.write(json.dumps({"stage": stage, "step": step, **terms}) + "\n")
        except OSError as error:  # such as a full disk
            raise files.write_error(self.log_path, error) from error
        if step == steps or time.monotonic() - self.last_print > SECONDS_BETWEEN_LINES:
            self.last_print = time.monotonic()
            values = "  ".join(f"{name} {value:.3f}" for name, value in terms.items())
            text = f"{self.title} {stage} {step}/{steps}  {values}  {files.clock(left)} left"
            files.print_progress(text, end=step == steps)

    def _check(self, stage: str) -> None:
        """Read the unchecked terms from the device, averaged over the processes; check them."""
        if not self.unchecked:
            return
        names = list(self.unchecked[0])
        rows = [torch.stack([terms[name].float() for name in names]) for terms in self.unchecked]
        table = optim.all_reduce_mean(torch.stack(rows)).tolist()  # one transfer
        self.unchecked = []
        for step, row in enumerate(table, self.done[stage] - len(table) + 1):
            self.unlogged.append(dict(zip(names, row)))
            for name, value in self.unlogged[-1].items():
                if not math.isfinite(value):
                    fault = f"the term '{name}' became {value} at step {step} of stage '{stage}'"
                    fix = "lower a learning rate or a weight and run again"
                    raise LoopError(f"{self.title}: {fault}: {fix}")


class TrialLoop:
    """Used like `Loop`, but times a few steps of each stage and writes nothing.

    `minutes` and `flop` estimate the cost of all steps of the stages so far. torch counts the FLOP
    of convolutions and matrix products in the first step.
    """

    folder = None  # nothing is written
    seed = 0

    def __init__(self, title: str):
        self.title = title
        self.done = Counter()
        self.minutes = 0.0
        self.flop = 0

    def start(self, **parts) -> None:
        """There is nothing to resume."""

    def steps(self, stage: str, steps: int):
        """Yield 1, 2, ... until the speed is known."""
        seconds = []
        counter = FlopCounterMode(display=False)
        while len(seconds) < min(TRIAL_STEPS, steps) and sum(seconds) <= TRIAL_SECONDS:
            began = time.monotonic()
            with nullcontext() if seconds else counter:
                yield len(seconds) + 1
            seconds.append(time.monotonic() - began)
        if seconds:
            median = statistics.median(seconds)
            flop = counter.get_total_flops()
            self.minutes += steps * median / 60
            self.flop += steps * flop
            speed = f"{median:8.3f} seconds and {flop / 1e9:8.2f} GFLOP each"
            print(f"  {self.title:6} {stage:9} {steps:6} steps, {speed}", flush=True)

    def log(self, terms: dict) -> None:
        """Wait for a GPU to finish the step."""
        sum(terms.values()).item()


@contextmanager
def counted_minutes(path: Path):
    """Add the block's minutes to those in the JSON file at `path`, also if an error ends it."""
    before = files.read_json(path, needs=["minutes"])["minutes"] if path.exists() else 0.0
    began = time.monotonic()
    try:
        yield
    finally:
        files.write_file(path, json.dumps({"minutes": before + (time.monotonic() - began) / 60}))


def save_tensors(path: Path, state: dict, previous: Path | None = None) -> None:
    """Write a dict of tensors completely or not at all; an old file becomes `previous`."""
    with files.atomic_path(path) as temporary:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # torch's own report of a full disk
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        if previous is not None and path.exists():
            os.replace(path, previous)


def read_checkpoint(path) -> dict:
    """Read the file of tensors and plain values at `path`. Raises LoopError."""
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:  # torch writes checksums but never checks them
            if broken := archive.testzip():
                raise OSError(f"{broken} in it is damaged")
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        fix = "run ppad.reproduce first (delete the row.json of a row that is done) or name another"
        raise LoopError(f"{path} does not exist: {fix} run") from None
    except Exception as error:  # damaged files raise many types
        fix = "start over"
        previous = path.with_name("checkpoint.prev.pt")
        if path != previous and previous.exists():
            fix = f"go on from {previous.name}"
        fault = f"{path} cannot be read ({type(error).__name__})"
        raise LoopError(f"{fault}: delete it to {fix}") from error


def save_players(path, config: dict, parts: dict) -> None:
    """Write networks (name -> state dict) and the preset's fields, in half precision."""
    halves = {}
    for name, state in parts.items():
        halves[name] = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    save_tensors(path, {"config": config, "parts": halves})


def load_public_weights(network, path) -> None:
    """Load D's network from a public file of SphereFace-20, trained on CASIA-WebFace (Sec. 4).

    Such files name their tensors as Caffe does (conv1_1.weight, conv1_1.bias, relu1_1.weight) or by
    blocks, but hold the same 62 in the same order: each convolution's weight, bias and slopes, then
    fc5's weight and bias. Class weights after these are dropped: they are for other people.

    Raises ValueError for a file that holds something else.
    """
    own = network.state_dict()
    try:
        # weights_only: a file from elsewhere may hold tensors, never code
        values = list(torch.load(path, map_location="cpu", weights_only=True).values())
        if len(values) > len(own) + 1:
            raise ValueError(f"it holds {len(values)} tensors")
        network.load_state_dict(dict(zip(own, values)))
    except Exception as error:  # torch raises many types
        fix = f"give a public PyTorch file of SphereFace-20, {len(own)} tensors and class weights"
        raise ValueError(f"recognizer_weights {path} does not fit D: {fix}") from error


def read_log(path) -> list[dict]:
    """Lines of a log.jsonl before a damaged one (a crash may cut the last). Raises LoopError."""
    if not Path(path).exists():
        fix = f"delete the folder {Path(path).parent} and give the same command again"
        raise LoopError(f"{path} does not exist: {fix}")
    lines = []
    for text in Path(path).read_text().splitlines():
        try:
            line = json.loads(text)
            lines.append({**line, "stage": line["stage"], "step": line["step"]})
        except (ValueError, KeyError, TypeError):
            break
    return lines


@contextmanager
def _delayed_interrupt():
    """Yield an Event that a signal to stop sets: the step ends; Ctrl-C again stops at once."""
    pressed = threading.Event()

    def handler(signum, frame):
        if pressed.is_set() and signum == signal.SIGINT:
            raise KeyboardInterrupt
        pressed.set()

    before = signal.signal(signal.SIGINT, handler)
    try:
        with files.on_signals(handler):
            yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


# ---------------------------------------------------------------- several tasks at once


def side_by_side(tasks: dict, jobs: int) -> None:
    """Run the tasks (name -> function), `jobs` at a time, each in a fork with one thread.

    Two rows with one thread each use two cores better than one row with two. The forks share the
    data in memory; each task writes its result to disk. Without fork, or with one job, the tasks
    run in this process, in turn. Raises LoopError if a task failed (running tasks may finish, but
    no new ones start), Interrupted if one was stopped.
    """
    if jobs < 2 or not hasattr(os, "fork"):
        for task in tasks.values():
            task()
        return
    process = multiprocessing.get_context("fork").Process
    processes = [process(target=run_task, args=(task,), name=name) for name, task in tasks.items()]
    waiting = list(processes)
    running = []
    failed = {}  # name -> exit status
    stopped = False

    def forward(signum, frame):  # `kill` reaches only this process; let the forks save
        for fork in running:
            fork.terminate()

    with files.on_signals(forward):
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(waiting.pop(0))
                running[-1].start()
            try:
                multiprocessing.connection.wait([fork.sentinel for fork in running])
            except KeyboardInterrupt:  # the forks received Ctrl-C, too
                stopped = True
            running = [fork for fork in running if fork.is_alive()]
            failed = {fork.name: fork.exitcode for fork in processes if fork.exitcode}
            if stopped or failed:
                waiting.clear()
    if stopped or 130 in failed.values():
        raise Interrupted("stopped; the same command continues from the last checkpoints")
    if failed:
        fault = ", ".join(f"{name} ended with status {code}" for name, code in failed.items())
        fix = "see above; the same command continues from the last checkpoints"
        raise LoopError(f"{fault}: {fix}")


def run_task(task) -> None:
    """The main function of a forked process."""
    optim.end_with_parent()  # it must not write while a new run does
    torch.set_num_threads(1)
    sys.exit(exit_status(task))


def stop_once(signum, frame):
    """Stop as Ctrl-C does, and ignore further signals: a batch system may send several."""
    signal.signal(signum, signal.SIG_IGN)
    raise KeyboardInterrupt


def exit_status(work) -> int:
    """Call `work()`. Returns 0; 2 after an error that the user can correct; 130 after a stop.

    Prints a sentence for the error or the stop.
    """
    status = 2
    try:
        with files.on_signals(stop_once):
            work()
        return 0
    except (ValueError, OSError, LoopError) as error:
        sentence = str(error)
    except (MemoryError, RuntimeError) as error:
        on_gpu = isinstance(error, torch.OutOfMemoryError)
        if not (on_gpu or isinstance(error, MemoryError) or "allocate memory" in str(error)):
            raise
        less = "--jobs 1, --accumulate 2, --checkpointing true and a smaller --eval_batch need less"
        full = f"the {'GPU' if on_gpu else 'processor'}'s memory is full"
        sentence = f"{full}: --check says what would fit; {less}"
    except KeyboardInterrupt as stop:
        print(file=sys.stderr)  # ends a line of progress
        sentence = str(stop) or "stopped; the same command continues from the last checkpoint"
        status = 130
    print(f"ppad.reproduce: {sentence}", file=sys.stderr)
    return status
