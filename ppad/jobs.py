"""Rows side by side on one machine, and how each of them ends (ours).

The rows of a table do not wait for each other, so `together` trains several at once, each in a forked process of its
own. On a CPU two single-threaded rows use two cores better than one row on two threads. On a GPU one small row leaves
most of it idle: it waits for the CPU to hand it the next of thousands of short pieces of work.

A process that has talked to a GPU cannot fork children that do. So the process that forks asks nothing of the GPU, not
even whether it is there: `gpu_memory` lets a fork ask.
"""

import multiprocessing
import multiprocessing.connection
import os
import sys
import threading
import time

import torch

from ppad.loop import Interrupted, LoopError

GIB = 2**30
MOST = 4  # ours: on a CPU 4 forks of 1 GB each at most; on a GPU more of them would only wait for each other
CAN_FORK = (
    sys.platform == "linux"
)  # macOS's own libraries do not survive a fork, and Windows has none


def together(tasks: dict, jobs: int) -> None:
    """Run the tasks (name -> function), `jobs` at a time, each in a forked process with one thread.

    The forks share the data in memory. Each task leaves its result on disk. Where there is no fork, or with one job, the
    tasks run here, in turn. Raises LoopError when a task failed, Interrupted when one was stopped.
    """
    if jobs < 2 or not hasattr(os, "fork"):
        for task in tasks.values():
            task()
        return
    context, waiting, running, failed = (
        multiprocessing.get_context("fork"),
        list(tasks.items()),
        {},
        [],
    )

    def alone(task, parent=os.getpid()):
        def follow():  # a parent killed outright must not leave us writing
            while os.getppid() == parent:
                time.sleep(1)
            os._exit(1)

        threading.Thread(target=follow, daemon=True).start()
        torch.set_num_threads(1)
        sys.exit(in_one_sentence(lambda: task() and 0))

    while waiting or running:
        while waiting and len(running) < jobs and not failed:
            name, task = waiting.pop(0)
            running[name] = context.Process(target=alone, args=(task,))
            running[name].start()
        try:
            multiprocessing.connection.wait([process.sentinel for process in running.values()])
        except KeyboardInterrupt:  # the forks got it too: let them save
            failed.append(("this run", 130))
            continue
        for name in [name for name, process in running.items() if not process.is_alive()]:
            process = running.pop(name)
            process.join()
            if process.exitcode:
                failed.append((name, process.exitcode))
        if failed and not running:
            break
    if any(code == 130 for _, code in failed):
        raise Interrupted("stopped; the same command goes on from the last checkpoints")
    if failed:
        raise LoopError(
            f"{', '.join(f'{name} ended with status {code}' for name, code in failed)}: see above; "
            "the same command goes on from the last checkpoints"
        )


def in_one_sentence(work) -> int:
    """Call `work`; what a user can mend, or has stopped, becomes one sentence and a status instead of a traceback."""
    try:
        return work()
    except (
        ValueError,
        OSError,
        LoopError,
    ) as error:  # every room raises ValueError for what it cannot use
        print(f"ppad.reproduce: {error}", file=sys.stderr)
        return 2
    except torch.OutOfMemoryError:
        print(
            "ppad.reproduce: the GPU's memory is full: --check says what would fit; --jobs 1, --accumulate 2 --checkpointing "
            "true and a smaller --eval_batch need less and go on in this folder",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt as stop:
        told = (
            stop
            if isinstance(stop, Interrupted)
            else "stopped; the same command goes on from the last checkpoint"
        )
        print(f"\nppad.reproduce: {told}", file=sys.stderr)
        return 130


def gpu_memory(device: str = "cuda") -> float:
    """GiB of the GPU that torch sees as `device`, 0.0 without one. This process stays one whose forks can use it."""

    def ask():
        which = torch.device(device).index or 0
        seen = torch.cuda.is_available() and which < torch.cuda.device_count()
        return torch.cuda.get_device_properties(which).total_memory / GIB if seen else 0.0

    def answer():
        try:
            there.send(ask())
        except RuntimeError:  # this process had asked before, so its forks cannot
            there.send(None)

    if not CAN_FORK or torch.cuda.is_initialized():
        return ask()
    here, there = multiprocessing.Pipe(duplex=False)
    fork = multiprocessing.get_context("fork").Process(target=answer)
    fork.start()
    there.close()  # else nobody notices when the fork has died
    try:
        told = here.recv()
    except EOFError:
        told = 0.0
    fork.join()
    return ask() if told is None else told


def how_many(device: str, gpu: float, training: float) -> int:
    """How many rows to train at once where nobody says: one a core, or as many as a GPU of `gpu` GiB holds with ease.

    training: GiB that a row's networks need (`checkup.needs`); twice that and 1 for what is not in it, cuDNN's workspaces
    and CUDA's context (ours: not measured).
    """
    cores = os.cpu_count() or 1
    if not CAN_FORK or torch.cuda.is_initialized():
        return 1
    return (
        min(MOST, cores)
        if device == "cpu"
        else max(1, min(MOST, cores // 2, int(0.8 * gpu / (2 * training + 1))))
    )
