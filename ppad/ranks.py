"""Several processes that train one game together: `torchrun --nproc-per-node N -m ppad.reproduce ...` (ours).

Each process runs the whole program, on a GPU of its own or all of them on the CPU, and has the same players. A preset's
batches are those of all processes together: each takes an equal `share`, `Averaging` makes every gradient the mean over
all, so the players stay the same everywhere, and the terms that are logged are means as well. Only the first process
writes files and progress; what is no training (judging, figures) it does alone, and the others wait (`first_does`).

What differs from one process with the same batches: random draws (jitter, A's sampling of regions) fall otherwise, the
mean of A's loss is taken over the regions of each process first, and on a CPU batch norm sees one process's share, since
torch's SyncBatchNorm is for GPUs. (M and D have no batch norm, nor has an A with `detector_weights`.)

One process that ends, ends all: torchrun stops the others. Alone, without torchrun, every function here does nothing.
"""

import inspect
import os
from contextlib import ExitStack
from datetime import timedelta

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

BATCHES = (
    "batch_faces",
    "batch_frames",
    "practice_faces",
    "pretrain_recognizer_batch",
)  # of a preset: what is shared
LONGEST_WAIT = timedelta(
    hours=24
)  # ours: the others wait while the first judges a row; one that died is torchrun's to find


def asked() -> int:
    """How many processes torchrun started; 1 without torchrun."""
    launched = (
        distributed.is_available() and distributed.is_torchelastic_launched()
    )  # not every torch has it
    return int(os.environ["WORLD_SIZE"]) if launched else 1


def number() -> int:
    """This process's number, from 0."""
    return int(os.environ["RANK"]) if asked() > 1 else 0


def check_batches(config) -> None:
    """Raise ValueError naming the first batch of `config` that the processes cannot share equally."""
    for name in BATCHES if asked() > 1 else ():
        parts = asked() * (1 if name == "pretrain_recognizer_batch" else config.accumulate)
        if getattr(config, name) % parts:
            raise ValueError(
                f"{name} is {getattr(config, name)}: {asked()} processes share it, so {parts} must divide it"
            )


def join(device: str, config) -> None:
    """Meet the other processes; "cuda" means from here on this process's own GPU.

    Raises ValueError, before anything is waited for, if there is no such GPU or a batch of `config` cannot be shared.
    """
    if asked() == 1:
        return
    check_batches(config)
    if device.startswith("cuda"):
        if device != "cuda":
            raise ValueError(
                f"device is '{device}': under torchrun give --device cuda, and each process takes one GPU"
            )
        here, gpus = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
        if here > gpus:
            raise ValueError(
                f"torchrun started {here} processes for {gpus} GPU{'s' * (gpus != 1)}: give --nproc-per-node {gpus}"
            )
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # both: gradients travel between GPUs, while flags and waiting stay on the CPU
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo", timeout=LONGEST_WAIT
    )


def leave() -> None:
    """The end of the work together."""
    if count() > 1:
        distributed.destroy_process_group()


def count() -> int:
    """How many processes have met; 1 before `join` and without torchrun."""
    return (
        distributed.get_world_size()
        if distributed.is_available() and distributed.is_initialized()
        else 1
    )


def first() -> bool:
    """Is this the process that writes?"""
    return number() == 0


# ---------------------------------------------------------------- what each does alone


def share(*batch) -> tuple:
    """This process's part of a batch: tensors or lists with B entries -> with B / N, in order.

    Raises ValueError if N does not divide B.
    """
    parts = count()
    for one in batch:
        if len(one) % parts:
            raise ValueError(
                f"{parts} processes cannot share a batch of {len(one)} equally: give batches that {parts} divides"
            )
    return (
        tuple(
            one[number() * len(one) // parts : (number() + 1) * len(one) // parts] for one in batch
        )
        if parts > 1
        else batch
    )


def first_does(work):
    """`work()`, by the first process alone; the others wait for it and return what it returned (anything that pickles)."""
    if count() == 1:
        return work()
    done = [work() if first() else None]
    try:
        distributed.broadcast_object_list(done)
    except RuntimeError as error:  # its end of the line is gone
        raise ValueError("the first process has stopped: see what it says") from error
    return done[0]


# ---------------------------------------------------------------- what they do together


class _Weights(nn.Module):
    """Weights without a network: loss in, loss out."""

    def __init__(self, weights):
        super().__init__()
        self.weights = nn.ParameterList(weights)

    def forward(self, loss):
        return loss


class Averaging:
    """Called with a loss, it gives it back, and the backward pass then leaves in `weights` the mean of all processes' gradients.

    It is torch's DistributedDataParallel around the weights alone. Around a network it would count on one forward pass
    a step; here M repaints twice a step, one of the players is frozen, and who learns together changes with the update.
    DDP's work, averaging while the backward pass goes on, hangs on the weights in any case. What backward passes before
    it have added up is averaged with it.
    """

    def __init__(self, weights):
        self.weights, self.together = list(weights), None

    def __call__(self, loss: torch.Tensor) -> torch.Tensor:
        if count() == 1:
            return loss
        if self.together is None:
            # no first exchange of weights: the seed makes them alike, and `loss` has been worked out with them already
            if "init_sync" in inspect.signature(DistributedDataParallel.__init__).parameters:
                self.together = DistributedDataParallel(_Weights(self.weights), init_sync=False)
            else:  # torch 2.6 exchanges them all the same; autograd must not take that for a change
                with ExitStack() as unchanged:
                    for weight in self.weights:
                        unchanged.enter_context(
                            torch.autograd._unsafe_preserve_version_counter(weight)
                        )
                    self.together = DistributedDataParallel(_Weights(self.weights))
        return self.together(loss)


def join_norms(network: nn.Module) -> None:
    """Batch norm inside `network` looks at the batches of all processes (GPUs only); its state dict keeps its names."""
    if count() > 1 and next(network.parameters()).is_cuda:
        nn.SyncBatchNorm.convert_sync_batchnorm(
            network
        )  # in place, but for a network that is itself a batch norm


def mean(table: torch.Tensor) -> torch.Tensor:
    """The mean of a tensor over the processes; a nan of one is a nan of all."""
    if count() == 1:
        return table
    distributed.all_reduce(table)
    return table / count()


def any_of(*flags: bool) -> tuple:
    """Each flag: is it set anywhere?"""
    if count() == 1:
        return flags
    asked_by_any = torch.tensor(flags, dtype=torch.uint8)
    distributed.all_reduce(asked_by_any, distributed.ReduceOp.MAX)
    return tuple(asked_by_any.bool().tolist())


def every(thing) -> list:
    """What each process has, by number (anything that pickles)."""
    things = [thing] * count()
    if count() > 1:
        distributed.all_gather_object(things, thing)
    return things
