"""A training loop that survives: progress, a log, and checkpoints from which a run goes on bit for bit.

Nothing here knows faces or networks. A `Loop` owns a folder and a set of named parts (anything with
`state_dict` and `load_state_dict`: networks, optimizers, index streams) and runs stages, each a function
called once a step. After any stop, planned or not, making the same loop again and calling the same stages
goes on where the last checkpoint left off:

* `checkpoint.pt` holds every part, the steps done in each stage and the random states; it is written to a
  temporary name and renamed, so it is whole or absent, and the one before is kept as `checkpoint.prev.pt`;
* `log.jsonl` has one line a step shown; lines past the checkpoint are dropped on resuming;
* Ctrl-C finishes the step under way, saves and stops; a non-finite term stops the run and is named.

Where several processes train together (`ppad.ranks`), each runs the loop and the first one writes. They save and stop
after the same step: whether to do so they ask each other after each, since torchrun grants but 30 s after Ctrl-C.
"""

import json
import math
import os
import signal
import sys
import threading
import time
import zipfile
from contextlib import contextmanager
from pathlib import Path

import torch

from ppad import ranks

SECONDS_BETWEEN_LINES = 5  # ours: progress a person can follow, also when two rows report
APART = 1_000_003  # ours: from a process's seed to the next one's, more than anybody's own seeds lie apart


class LoopError(RuntimeError):
    """A run that cannot go on; the message is one sentence that says why and what to do."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C was pressed and the state is saved."""


class Loop:
    """Stages of training in one folder.

    Args:
        folder: made if absent. title: what progress lines call this run.
        seed: seeds torch when the loop starts fresh; ignored when it resumes.
        settings: plain dict compared with the checkpoint's; a difference refuses to resume and is named.
        log_every: steps between log lines (and between checks for a non-finite term: checking reads the
            terms back from the device, which would stall it at every step).
        checkpoint_seconds: time between checkpoints.
    """

    def __init__(
        self,
        folder,
        title: str,
        seed: int,
        settings: dict,
        log_every: int = 20,
        checkpoint_seconds: float = 120,
    ):
        self.folder, self.title, self.seed, self.settings = Path(folder), title, seed, settings
        self.log_every, self.checkpoint_seconds = log_every, checkpoint_seconds
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path, self.previous = self.folder / "checkpoint.pt", self.folder / "checkpoint.prev.pt"
        self.parts: dict[str, object] = {}
        self.done: dict[str, int] = {}
        self.seconds = 0.0

    def start(self, **parts) -> None:
        """Register the parts, then load the checkpoint if there is one, else seed torch. Raises LoopError."""
        self.parts = parts
        torch.manual_seed(
            self.seed + APART * ranks.number()
        )  # each process draws for its own share of a batch
        if ranks.first():
            for half_written in self.folder.glob(
                "checkpoint.*.tmp"
            ):  # by a run that was killed while it saved
                half_written.unlink()
        if self.path.exists() or self.previous.exists():
            self._load()
        elif ranks.first() and (self.folder / "log.jsonl").exists():
            (
                self.folder / "log.jsonl"
            ).unlink()  # written before the first checkpoint: gone with it

    def stage(self, name: str, steps: int, step, after=None) -> None:
        """Call `step(number)` (1-based, returns {term: scalar tensor}) until `steps` are done, then save.

        `after(number)`, if given, is called after each step (for pictures) outside the gradient.
        Raises LoopError on a non-finite term, Interrupted on Ctrl-C (both leave a checkpoint to go on from).
        """
        if self.done.get(name, 0) >= steps:
            return
        first, began, saved, told, unchecked = (
            self.done.get(name, 0),
            time.monotonic(),
            time.monotonic(),
            0.0,
            [],
        )
        with _patient_interrupt() as pressed:
            for number in range(first + 1, steps + 1):
                terms = step(number)
                unchecked.append((number, {key: value.detach() for key, value in terms.items()}))
                if after is not None:
                    with torch.no_grad():
                        after(number)
                self.done[name] = number
                now, last = time.monotonic(), number == steps
                stop, due, shows = (
                    bool(pressed),
                    now - saved > self.checkpoint_seconds,
                    last or number % self.log_every == 0,
                )
                stop, due = ranks.any_of(stop, due)  # on the CPU: a GPU does not wait for it
                due = due or stop or last
                if due or shows:
                    shown = self._check(name, unchecked)
                    unchecked = []
                    if shows and ranks.first():
                        self._log({"stage": name, "step": number, **shown})
                    if ranks.first() and (last or now - told > SECONDS_BETWEEN_LINES):
                        told, left = now, (now - began) / (number - first) * (steps - number)
                        _say(
                            f"{self.title} {name} {number}/{steps}  "
                            + "  ".join(f"{key} {value:.3f}" for key, value in shown.items())
                            + f"  {clock(left)} left",
                            end=last,
                        )
                if due:
                    self.seconds += now - saved
                    saved = now
                    self.save()
                if stop:
                    raise Interrupted(
                        f"stopped at {self.title} {name} step {number}; the same command goes on from here"
                    )

    def finished_minutes(self) -> float:
        """Minutes of training that the checkpoint in this folder holds; 0.0 without one."""
        return read_checkpoint(self.path)["seconds"] / 60 if self.path.exists() else 0.0

    def save(self) -> None:
        """Write the checkpoint; the one before stays as `checkpoint.prev.pt`. Raises LoopError when it cannot."""
        chance, *others = ranks.every(
            {
                "rng": torch.get_rng_state(),
                "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
            }
        )
        state = {
            "parts": {name: part.state_dict() for name, part in self.parts.items()},
            "done": dict(self.done),
            "settings": self.settings,
            "seconds": self.seconds,
            **chance,
        }
        ranks.first_does(lambda: self._write({**state, "others": others} if others else state))

    def _write(self, state: dict) -> None:
        temporary = self.folder / f"checkpoint.{os.getpid()}.tmp"
        try:
            torch.save(state, temporary)
            _to_disk(temporary)
            if self.path.exists():
                os.replace(self.path, self.previous)
            os.replace(temporary, self.path)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            temporary.unlink(missing_ok=True)
            raise LoopError(
                f"cannot write {self.path} ({_first_line(error)}): free some disk space and run the same "
                "command again; the last checkpoint stands"
            ) from error

    def _load(self) -> None:
        path = self.path if self.path.exists() else self.previous
        state = read_checkpoint(path)
        if not isinstance(state, dict) or not all(
            isinstance(state.get(key), dict) for key in ("settings", "done", "parts")
        ):
            raise LoopError(
                f"{path} is not a checkpoint of this program: move it away to start afresh"
            )
        theirs, done, parts = state["settings"], state["done"], state["parts"]
        different = [
            f"{key}: {theirs.get(key)!r} there, {self.settings.get(key)!r} here"
            for key in sorted(set(theirs) | set(self.settings))
            if theirs.get(key) != self.settings.get(key)
        ]
        if different:
            raise LoopError(
                f"{path} belongs to another configuration ({'; '.join(different)}): "
                "choose another --out or the same settings"
            )
        try:
            for name, part in self.parts.items():
                part.load_state_dict(parts[name])
        except ValueError as error:  # a part that knows what to do
            raise LoopError(f"{path} does not fit this run: {_first_line(error)}") from error
        except (KeyError, RuntimeError) as error:
            raise LoopError(
                f"{path} does not fit this program ({_first_line(error)}): move it away to start afresh"
            ) from error
        self.done, self.seconds = done, state["seconds"]
        chances = [state, *state.get("others", [])]
        if ranks.number() < len(chances):  # else this run has more processes than the one before
            chance = chances[ranks.number()]
            torch.set_rng_state(chance["rng"])
            if torch.cuda.is_available():  # perhaps with fewer GPUs than before
                torch.cuda.set_rng_state_all(chance["cuda_rng"][: torch.cuda.device_count()])
        if ranks.first():
            self._cut_log()

    def _cut_log(self) -> None:
        path = self.folder / "log.jsonl"
        if path.exists():
            lines = [
                line for line in read_log(path) if line["step"] <= self.done.get(line["stage"], 0)
            ]
            text = "".join(json.dumps(line) + "\n" for line in lines)
            if text != path.read_text():
                write_whole(path, text)

    def _log(self, line: dict) -> None:
        path = self.folder / "log.jsonl"
        try:
            with path.open("a") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise LoopError(
                f"cannot write {path} ({error.strerror}): free some disk space and run the same command again; "
                "the last checkpoint stands"
            ) from error

    def _check(self, stage: str, unchecked: list) -> dict[str, float]:
        """Mean of each term over the unchecked steps (and the processes). One read-back for all of them."""
        names = list(unchecked[0][1])
        table = torch.stack(
            [torch.stack([terms[name].float() for name in names]) for _, terms in unchecked]
        )
        table = ranks.mean(table).tolist()
        for (number, _), row in zip(unchecked, table):
            for name, value in zip(names, row):
                if not math.isfinite(value):
                    raise LoopError(
                        f"{self.title}: the term '{name}' became {value} at step {number} of stage '{stage}'; "
                        "the last checkpoint stands: lower a learning rate or a weight and run again"
                    )
        return {
            name: round(sum(row[i] for row in table) / len(table), 5)
            for i, name in enumerate(names)
        }


def read_checkpoint(path) -> dict:
    """The checkpoint at `path`, tensors and plain values only. Raises LoopError naming it when it cannot be read."""
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:  # torch writes checksums and does not read them
            if spoilt := archive.testzip():
                raise OSError(f"{spoilt} in it is not what was written")
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise LoopError(
            f"{path} does not exist: run ppad.reproduce first or name another run"
        ) from None
    except Exception as error:  # a torn file raises one of many types
        previous = path.with_name("checkpoint.prev.pt")
        older = path != previous and previous.exists()
        mend = f"delete it to go on from {previous.name}" if older else "delete it to start afresh"
        raise LoopError(f"{path} cannot be read ({_first_line(error)}): {mend}") from error


def read_log(path) -> list[dict]:
    """Lines of a log.jsonl; a last line torn by a sudden stop is left out."""
    lines = []
    for text in Path(path).read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def write_whole(path, content: str | bytes) -> None:
    """Write a small file whole or not at all: to a temporary name beside it, then renamed."""
    path = Path(path)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        _to_disk(temporary)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise LoopError(
            f"cannot write {path} ({error.strerror}): free some disk space or choose another --out"
        ) from error


def read_whole(path) -> dict:
    """What `write_whole` wrote as JSON. Raises LoopError naming the file when it cannot be read."""
    try:
        return dict(json.loads(Path(path).read_text()))
    except FileNotFoundError:
        raise LoopError(
            f"{path} does not exist: run the same command again, or name another run"
        ) from None
    except (ValueError, TypeError, OSError) as error:
        raise LoopError(
            f"{path} cannot be read ({_first_line(error)}): delete it and run the same command again"
        ) from error


def _to_disk(path) -> None:
    """Wait until a file's content is on the disk: a machine that goes down keeps the renaming and may lose what was renamed."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    whole = int(round(seconds))
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _say(text: str, end: bool) -> None:
    """Progress: one line rewritten on a terminal, plain lines elsewhere."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="\n" if end else "", file=sys.stderr, flush=True)
    else:
        print(text, file=sys.stderr, flush=True)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


@contextmanager
def _patient_interrupt():
    """A list that Ctrl-C fills, so that the step under way ends whole; a second Ctrl-C stops at once."""
    pressed = []
    if (
        threading.current_thread() is not threading.main_thread()
    ):  # signals belong to the main thread
        yield pressed
        return
    before = signal.getsignal(signal.SIGINT)

    def note(signum, frame):
        if pressed:
            raise KeyboardInterrupt
        pressed.append(True)

    signal.signal(signal.SIGINT, note)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)
