"""What this machine is, what a preset needs of it, and several tasks at once on it (ours).

Rows do not depend on each other, so several are trained at once, each in a forked process with one
CPU thread. On a CPU two such rows use two cores better than one row with two threads; on a GPU one
small row leaves most of it idle. A process that has used a GPU cannot fork others that do, so the
main process leaves even the question whether there is a GPU to a fork.
"""

import dataclasses
import math
import multiprocessing
import multiprocessing.connection
import os
import platform
import re
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import torch
import torchvision

from ppad import optim, players
from ppad.loop import Interrupted, LoopError

# Sec. 5.1: CASIA-WebFace without its three people of LFW; DALY's classes
ASSUMED = {"people": 10572, "classes": 10}
SETS = ("train_faces", "test_faces", "train_frames", "test_frames")  # in order of reading
GIB = 2**30
MOST_JOBS = 4  # ours: each takes 1 GB on a CPU; on a GPU more would only wait for each other
CAN_FORK = sys.platform == "linux"  # macOS's libraries do not survive a fork; Windows has none


# ---------------------------------------------------------------- what there is


def versions() -> dict[str, str]:
    """Versions of what decides a run's numbers."""
    packages = {one.__name__: one.__version__ for one in (torch, torchvision, np)}
    return {"python": platform.python_version(), **packages}


def processor() -> str:
    """The processor's name as Linux has it; elsewhere what Python knows."""
    known = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = re.search(r"^model name\s*: (.*)", known, re.MULTILINE)
    return model[1] if model else platform.processor() or platform.machine()


def hardware(device) -> dict:
    """What a run runs on, for results.json and the check."""
    report = {
        "cpu": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
    }
    if torch.device(device).type == "cuda":
        report["gpu"] = torch.cuda.get_device_name(device)
    return report


def memory(device) -> tuple[float, float] | None:
    """(free, whole) memory in GiB of the GPU or of this machine; None where that is not known."""
    if torch.device(device).type == "cuda":
        free, whole = torch.cuda.mem_get_info(device)
        return free / GIB, whole / GIB
    if not Path("/proc/meminfo").exists():
        return None
    kib = dict(line.split()[:2] for line in Path("/proc/meminfo").read_text().splitlines())
    return int(kib["MemAvailable:"]) * 1024 / GIB, int(kib["MemTotal:"]) * 1024 / GIB


def peak_memory() -> float | None:
    """This process's peak resident memory in GiB; None on Windows, which does not tell it."""
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB, 2)


def gpu_peak(device) -> float | None:
    """The most GPU memory that this process's tensors have taken, GiB; None for a CPU."""
    if torch.device(device).type != "cuda":
        return None
    return round(torch.cuda.max_memory_allocated(device) / GIB, 2)


def gpu_memory(device: str = "cuda") -> float:
    """GiB of the GPU `device`, 0.0 without one; a fork asks torch, so that this process can fork.

    Where torch was asked here before (in a notebook), forks cannot ask and this process does.
    """
    if not CAN_FORK or torch.cuda.is_initialized():
        return _gpu_memory(device)
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as fork:
        try:
            return fork.submit(_gpu_memory, device).result()
        except BrokenProcessPool:  # the fork died
            return 0.0
        except RuntimeError:  # torch's "Cannot re-initialize CUDA in forked subprocess"
            return _gpu_memory(device)


def _gpu_memory(device: str) -> float:
    index = torch.device(device).index or 0
    if not torch.cuda.is_available() or index >= torch.cuda.device_count():
        return 0.0
    return torch.cuda.get_device_properties(index).total_memory / GIB


# ---------------------------------------------------------------- what a preset needs


def kept_bytes(network, *shape) -> int:
    """Bytes that a network on the meta device keeps of an input of `shape` for its backward."""
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(saved.append, lambda none: none):
        network(torch.empty(shape, device="meta"))
    own = [one.untyped_storage() for one in [*network.parameters(), *network.buffers()]]
    storages = {id(storage): storage for storage in [one.untyped_storage() for one in saved]}
    return sum(storages[i].nbytes() for i in storages.keys() - {id(one) for one in own})


def needs(config, people: int, classes: int, rows: int = 11) -> dict[str, float]:
    """GiB of memory for `training` and of `disk`, roughly: from shapes, nothing is allocated.

    Training: weights, gradients and Adam's two moments (4 x 4 bytes a weight), and what the largest
    update keeps for its backward pass, of one part of an accumulated batch. Disk: two checkpoints a
    row of the players and of the attacker, weights and moments.
    """
    with torch.device("meta"):
        modifier = players.make_modifier(config)
        recognizer = players.make_recognizer(config, people)
        detector = players.make_detector(dataclasses.replace(config, detector_weights=""), classes)
    body = detector.model.backbone
    if config.checkpointing:
        for network in (modifier, recognizer.network, body):
            optim.recompute(network)
    m, d, a = (sum(p.numel() for p in x.parameters()) for x in (modifier, recognizer, detector))
    crop = (3, config.recognizer_height, config.recognizer_breadth)
    faces = config.batch_faces // config.accumulate
    frames = config.batch_frames // config.accumulate
    game = (
        kept_bytes(modifier, faces + frames, 3, config.face_size, config.face_size)  # a face each
        + kept_bytes(recognizer.network, faces, *crop)
        + kept_bytes(body, frames, 3, config.frame_height, config.frame_width)
    )
    alone = kept_bytes(recognizer.network, max(config.pretrain_recognizer_batch, 2 * faces), *crop)
    weights = m + d + a + (d if config.warmup_steps else 0)  # the warm-up has a D of its own
    return {
        "training": (16 * weights + max(game, alone)) / GIB,
        "disk": rows * 2 * 12 * (weights + d) / GIB,
    }


def picture_memory(config, counts: dict) -> float:
    """GiB of pictures in memory, one byte a value: of folders, the sets that fit `memory_gb`."""
    face = config.face_size**2
    frame = config.frame_height * config.frame_width
    held = 0.0
    for name in SETS:
        size = 3 * counts[name] * (face if name.endswith("faces") else frame) / GIB
        if config.drawn or held + size <= config.memory_gb:
            held += size
    return held


def halved(config):
    """The preset with every batch half as large, accumulated accordingly; None if all are 1."""
    half = {name: max(1, getattr(config, name) // 2) for name in optim.SHARED_BATCHES}
    shared = (half["batch_faces"], half["batch_frames"], half["warmup_faces"])
    smaller = dataclasses.replace(config, **half, accumulate=math.gcd(config.accumulate, *shared))
    return None if smaller == config else smaller


def default_jobs(device: str, gpu: float, config) -> int:
    """How many rows to train at once: one a core, or as many as a GPU of `gpu` GiB surely holds.

    On a GPU a row is taken to need twice its networks' memory and 1 GiB, for cuDNN's workspaces and
    CUDA's context (ours: not measured), and two cores.
    """
    cores = os.cpu_count() or 1
    if not CAN_FORK or torch.cuda.is_initialized():
        return 1
    if device == "cpu":
        return min(MOST_JOBS, cores)
    training = needs(config, **ASSUMED)["training"]  # GiB
    return max(1, min(MOST_JOBS, cores // 2, int(0.8 * gpu / (2 * training + 1))))


# ---------------------------------------------------------------- several tasks at once


def side_by_side(tasks: dict, jobs: int) -> None:
    """Run the tasks (name -> function), `jobs` at a time, each in a forked process, one thread.

    The forks share the data in memory; each task leaves its result on disk. Without fork, or with
    one job, the tasks run in this process, in turn. Raises LoopError when a task failed (those that
    run still end, no other is started), Interrupted when one was stopped.
    """
    if jobs < 2 or not hasattr(os, "fork"):
        for task in tasks.values():
            task()
        return
    fork = multiprocessing.get_context("fork")
    processes = [
        fork.Process(target=run_task, args=(task,), name=name) for name, task in tasks.items()
    ]
    waiting = list(processes)
    running = []
    stopped = False
    while True:
        running = [process for process in running if process.is_alive()]
        failed = stopped or any(process.exitcode for process in processes)
        while waiting and len(running) < jobs and not failed:
            running.append(waiting.pop(0))
            running[-1].start()
        if not running:
            break
        try:
            multiprocessing.connection.wait([process.sentinel for process in running])
        except KeyboardInterrupt:  # the forks received it, too: let them save
            stopped = True
    if stopped or any(process.exitcode == 130 for process in processes):
        raise Interrupted("stopped; the same command goes on from the last checkpoints")
    failures = [f"{p.name} ended with status {p.exitcode}" for p in processes if p.exitcode]
    if failures:
        raise LoopError(
            f"{', '.join(failures)}: see above; the same command goes on from the last checkpoints"
        )


def run_task(task) -> None:
    """The main function of a forked process; its exit status is that of `exit_status`."""
    threading.Thread(target=exit_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    sys.exit(exit_status(lambda: task() and 0))


def exit_with_parent() -> None:
    """End this process when its parent has ended: a run started anew must not find it writing."""
    multiprocessing.parent_process().join()
    os._exit(1)


def exit_status(work) -> int | None:
    """`work()`; an error that the user can correct becomes one sentence and a status.

    Returns what `work` returned, 2 for such an error, 130 after Ctrl-C.
    """
    try:
        return work()
    except (ValueError, OSError, LoopError) as error:
        print(f"ppad.reproduce: {error}", file=sys.stderr)
        return 2
    except torch.OutOfMemoryError:
        print(
            "ppad.reproduce: the GPU's memory is full: --check says what would fit; --jobs 1, "
            "--accumulate 2 --checkpointing true and a smaller --eval_batch need less and go on "
            "in this folder",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt as stop:
        sentence = str(stop) or "stopped; the same command goes on from the last checkpoint"
        print(f"\nppad.reproduce: {sentence}", file=sys.stderr)
        return 130
