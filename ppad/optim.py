"""The technical side of training: mixed precision, memory, several processes (ours).

Six fields of a preset (see `config`), all off by default: they help a CPU little.

    precision      of the networks' activations, by torch's autocast. Weights, losses, the angles of
                   D's head, alignment and pasting stay in fp32.
    accumulate     a batch in parts, for less memory: the same gradients, except that random draws
                   differ and batch norm sees one part at a time.
    checkpointing  blocks of a network are recomputed in the backward pass (Chen et al. 2016): less
                   memory, a third more work. Not together with `compile`.
    channels_last, compile, fused

Beyond these, all but `precision` only change rounding, so a run may resume with other values.

Several processes may train together (torchrun, see ppad/README.md): each has the same players and
an equal part of every batch. Gradients are averaged; only the main process writes.
"""

import math
import multiprocessing
import os
import platform
import re
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import distributed, nn
from torch.utils.checkpoint import checkpoint

from ppad.config import ACCUMULATED, BATCHES
from ppad.files import DataError

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
MAX_NORM = 10.0  # ours, per player: early on, one batch can give A a huge gradient
BODIES = ("network", "backbone")  # most of D's and of A's work is there
MOST_JOBS = 4  # ours: each takes 1 GB on a CPU; on a GPU more would only wait for each other
CAN_FORK = sys.platform == "linux"  # macOS's libraries do not survive a fork; Windows has none
GIB = 2**30


# ---------------------------------------------------------------- one network


def prepare(player: nn.Module, config, device) -> None:
    """Set layout, checkpointing and compilation of a player, in place; its state dict stays.

    This applies to D's `network` (the loss is not in D's forward), to A's `backbone` (the shapes of
    proposals vary) and to all of any other player.
    """
    device = torch.device(device).type
    if world_size() > 1 and device == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(player)  # in place; GPU only
    modules = player.named_modules()
    body = next((part for name, part in modules if name.split(".")[-1] in BODIES), player)
    for layer in body.modules():
        if isinstance(layer, nn.PReLU) and config.precision != "fp32" and device == "cpu":
            layer.register_forward_pre_hook(_to_float)  # a CPU's autocast does not cast its slopes
    if config.channels_last:
        body.to(memory_format=torch.channels_last)
    if config.checkpointing:
        recompute(body)
    if config.compile:
        body.compile()


def _to_float(layer, inputs):
    return inputs[0].float()


def adam(parameters, lr: float, config, betas=(0.9, 0.999)) -> torch.optim.Adam:
    """Adam, fused if the preset says so."""
    return torch.optim.Adam(parameters, lr, betas, fused=config.fused or None)


def autocast(config, device):
    """The context for a network's forward pass: the preset's precision."""
    dtype = PRECISIONS[config.precision]
    return nullcontext() if dtype is None else torch.autocast(torch.device(device).type, dtype)


def make_scaler(config, device) -> torch.amp.GradScaler:
    """Loss scaling for fp16, which cannot hold small gradients; off for other precisions."""
    return torch.amp.GradScaler(torch.device(device).type, enabled=config.precision == "fp16")


# ---------------------------------------------------------------- one update


def backward_and_step(loss: torch.Tensor, optimizers, scaler, last_part: bool = True) -> None:
    """Backward pass; after the last part of a batch, a step of each optimizer.

    Gradients add up until then, so divide a part's loss by the number of parts. They are averaged
    over the processes, clipped to a norm of MAX_NORM for each optimizer, and cleared. If a gradient
    is not finite, its optimizer skips the step and a message goes to standard error. On a GPU, to
    avoid a sync, it steps with zero gradients instead (with fp16 the scaler skips the step).
    """
    scaler.scale(loss).backward()
    if not last_part:
        return
    if distributed.is_initialized():
        average_gradients([p for one in optimizers for p in one.param_groups[0]["params"]])
    for optimizer in optimizers:
        scaler.unscale_(optimizer)
        weights = optimizer.param_groups[0]["params"]
        norm = nn.utils.clip_grad_norm_(weights, MAX_NORM)
        on_gpu = norm.device.type != "cpu"
        if on_gpu and not scaler.is_enabled():
            for weight in weights:  # if any value was not finite, all are now nan or 0
                if weight.grad is not None:
                    weight.grad.nan_to_num_(nan=0.0)
        if scaler.is_enabled() or on_gpu or norm.isfinite():
            scaler.step(optimizer)  # fp16: skipped if a gradient overflowed
        else:
            print("a gradient is not finite: this step is skipped", file=sys.stderr)
        optimizer.zero_grad()
    scaler.update()


@contextmanager
def frozen(player: nn.Module):
    """Inside, gradients flow through `player`, but its weights and buffers do not change."""
    learning = [parameter.requires_grad for parameter in player.parameters()]
    training = player.training
    player.eval().requires_grad_(False)
    try:
        yield
    finally:
        for parameter, learns in zip(player.parameters(), learning):
            parameter.requires_grad_(learns)
        player.train(training)


# ---------------------------------------------------------------- activation checkpointing


def blocks(network: nn.Module):
    """Yield the blocks of `network` to checkpoint, found by their structure and never nested.

    They are the composite modules in an nn.Sequential (D's units, M's residual blocks, a ResNet's
    bottlenecks), or else an nn.Sequential of single layers (M's encoder and decoder).
    """
    for part in network.children():
        with_layers = [inner for inner in part.children() if list(inner.children())]
        if not isinstance(part, nn.Sequential):
            yield from blocks(part)
        elif with_layers:
            yield from with_layers
        elif len(part) > 1:
            yield part


def recompute(network: nn.Module) -> None:
    """Checkpoint the blocks of `network`, in place; a second time does nothing."""
    for block in blocks(network):
        if "forward" not in vars(block):  # copies of checkpointed networks have it
            block.forward = partial(_checkpointed, block, block.forward)


def _checkpointed(block, forward, *inputs):
    if not torch.is_grad_enabled():
        return forward(*inputs)
    return checkpoint(
        forward,
        *inputs,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), _fixed_averages(block)),
    )


@contextmanager
def _fixed_averages(block):
    """While a block is recomputed, its batch norms do not count the batch a second time."""
    before = [buffer.clone() for buffer in block.buffers()]
    try:
        yield
    finally:
        for buffer, value in zip(block.buffers(), before):
            buffer.copy_(value)


# ---------------------------------------------------------------- several processes


def launched_processes() -> int:
    """How many processes torchrun started; 1 without torchrun."""
    return int(os.environ["WORLD_SIZE"]) if distributed.is_torchelastic_launched() else 1


def world_size() -> int:
    """How many processes train together; 1 before `init_distributed` and without torchrun."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """This process's number, from 0."""
    return int(os.environ["RANK"]) if launched_processes() > 1 else 0


def is_main_process() -> bool:
    """Is this the process that writes?"""
    return rank() == 0


def init_distributed(device: str, config) -> None:
    """Connect the processes that torchrun started; "cuda" is then this process's own GPU.

    Raises ValueError, before it waits for others, for a `device` with a GPU's number or a batch
    of `config` that cannot be shared. Does nothing without torchrun.
    """
    processes = launched_processes()
    if processes == 1:
        return
    for name in BATCHES:
        size = getattr(config, name)
        parts = processes * (config.accumulate if name in ACCUMULATED else 1)
        if size % parts:
            fault = f"{processes} processes share it, so {parts} must divide it"
            raise ValueError(f"{name} is {size}: {fault}")
    if device.startswith("cuda:"):
        raise ValueError(f"device is '{device}': under torchrun give --device cuda, a GPU each")
    backend = "gloo"
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl"  # flags and Python objects stay on the CPU
    day = timedelta(hours=24)  # ours: the others wait while the main process evaluates a row
    distributed.init_process_group(backend, timeout=day)


def shut_down() -> None:
    """Close the process group."""
    if world_size() > 1:
        distributed.destroy_process_group()


def average_gradients(parameters) -> None:
    """Set every gradient to its mean over the processes, with one all-reduce.

    A gradient that is None on a process counts as zeros.
    """
    learning = [p for p in parameters if p.requires_grad]
    for p in learning:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    mean = all_reduce_mean(torch.cat([p.grad.flatten() for p in learning]))  # (sum of sizes,)
    for p, values in zip(learning, mean.split([p.numel() for p in learning])):
        p.grad.copy_(values.view_as(p))


def all_reduce_mean(tensor: torch.Tensor) -> torch.Tensor:
    """Mean of a tensor over the processes; nan if it is nan in one of them."""
    if world_size() == 1:
        return tensor
    distributed.all_reduce(tensor)
    return tensor / world_size()


def all_gather(thing) -> list:
    """Each process's `thing`, by rank (anything that pickles). Uses the CPU: no GPU sync."""
    things = [thing] * world_size()
    if len(things) > 1:
        distributed.all_gather_object(things, thing)
    return things


def any_process(*flags: bool) -> tuple[bool, ...]:
    """For each flag: is it set on any process? Used in each step, on the CPU: no GPU sync."""
    if world_size() == 1:
        return flags
    raised = torch.tensor(flags, dtype=torch.uint8)
    distributed.all_reduce(raised, distributed.ReduceOp.MAX)
    return tuple(raised.bool().tolist())


def run_on_main(work):
    """Call `work()` on the main process only; the others wait and return its result."""
    if world_size() == 1:
        return work()
    result = work() if is_main_process() else None
    try:
        return all_gather(result)[0]
    except RuntimeError as error:  # the connection is closed
        raise ValueError("the main process has stopped: see its message") from error


# ---------------------------------------------------------------- the machine


def check_device(name: str) -> None:
    """Raise DataError unless `name` is a device that is supported here.

    Does not check for a CUDA GPU: this process could not fork then.
    """
    try:
        kind = torch.device(name).type
    except RuntimeError:  # a word that torch does not know
        kind = ""
    if kind not in ("cpu", "cuda", "mps"):
        fix = "use cpu, cuda, cuda:1 (another GPU) or mps (an Apple GPU)"
        raise DataError(f"device is '{name}': {fix}")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise DataError(f"device is '{name}', but torch sees no Apple GPU here: use --device cpu")


def versions() -> dict[str, str]:
    """Versions of the software that affects a run's numbers."""
    import torchvision  # slow to load, and ppad.anonymize does not need it

    packages = {p.__name__: p.__version__ for p in (torch, torchvision, np)}
    return {"python": platform.python_version(), **packages}


def made_with() -> dict[str, str]:
    """The versions, and the machine, which affects rounding."""
    return versions() | {"machine": platform.platform()}


def processor() -> str:
    """The processor's name from /proc/cpuinfo on Linux, elsewhere from Python."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = re.search(r"^model name\s*: (.*)", text, re.MULTILINE)
    return model[1] if model else platform.processor() or platform.machine()


def hardware(device) -> dict:
    """A run's hardware, for results.json and `--check`."""
    report = {
        "cpu": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
    }
    if torch.device(device).type == "cuda":
        report["gpu"] = torch.cuda.get_device_name(device)
    return report


def measured_speed(config, device) -> float:
    """FLOP a second that this device reaches in a large matrix product, in the run's precision."""
    side = 1024 if device == "cpu" else 8192
    matrix = torch.rand(side, side, device=device)
    with autocast(config, device):
        (matrix @ matrix)[0, 0].item()  # the first product is slower
        began = time.monotonic()
        for _ in range(4):
            product = matrix @ matrix
        product[0, 0].item()  # waits for a GPU
    return 4 * 2 * side**3 / (time.monotonic() - began)


def memory(device) -> tuple[float, float]:
    """(free, total) memory in GiB of the GPU or of this machine; infinite where unknown."""
    if torch.device(device).type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return free / GIB, total / GIB
    if not Path("/proc/meminfo").exists():
        return math.inf, math.inf
    kib = dict(line.split()[:2] for line in Path("/proc/meminfo").read_text().splitlines())
    return int(kib["MemAvailable:"]) / 2**20, int(kib["MemTotal:"]) / 2**20


def peak_memory() -> float | None:
    """This process's peak resident memory in GiB; None on Windows."""
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB, 2)


def kept_bytes(network, *shape) -> int:
    """Bytes that a network on the meta device stores for backward, given an input of `shape`."""
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(saved.append, lambda none: none):
        network(torch.empty(shape, device="meta"))
    own = [t.untyped_storage() for t in [*network.parameters(), *network.buffers()]]
    storages = {id(s): s for s in [t.untyped_storage() for t in saved]}
    return sum(storages[i].nbytes() for i in storages.keys() - {id(s) for s in own})


def needs(config, modifier, recognizer, detector, rows: int) -> dict[str, float]:
    """GiB of memory for `training` and of `disk`, estimated from shapes.

    Training: weights, gradients, Adam's two moments (4 x 4 bytes a weight), and the activations
    that the largest update stores for one part of a batch. Disk: two checkpoints per row, with
    weights and moments of the players and the attacker. The players are on the meta device.
    """
    body = detector.model.backbone
    heads = detector.model.roi_heads
    if config.checkpointing:
        for network in (modifier, recognizer.network, body):
            recompute(network)
    m, d, a = (sum(p.numel() for p in x.parameters()) for x in (modifier, recognizer, detector))
    crop = (3, *config.crop_size)
    faces = config.batch_faces // config.accumulate
    frames = config.batch_frames // config.accumulate
    frame = (frames, 3, config.frame_height, config.frame_width)
    maps = body(torch.empty(frame, device="meta"))  # one map, or a dict of them
    features = maps if torch.is_tensor(maps) else maps[heads.box_roi_pool.featmap_names[0]]
    regions = frames * heads.fg_bg_sampler.batch_size_per_image
    game = (
        kept_bytes(modifier, faces + frames, 3, config.face_size, config.face_size)  # a face each
        + kept_bytes(recognizer.network, faces, *crop)
        + kept_bytes(body, *frame)
        + kept_bytes(heads.box_head, regions, features.shape[1], *heads.box_roi_pool.output_size)
    )
    alone = kept_bytes(recognizer.network, max(config.pretrain_recognizer_batch, 2 * faces), *crop)
    copies = config.warmup_recognizers if config.warmup_steps else 0  # of D, in the warm-up
    weights = m + d + a + copies * d
    return {
        "training": (16 * weights + max(game, alone)) / GIB,
        "disk": rows * 2 * 12 * (weights + d) / GIB,
    }


def default_jobs(device: str, gpu: float, need: dict) -> int:
    """How many rows to train at once: one per core, or as many as safely fit on a GPU of `gpu` GiB.

    On a GPU a row is assumed to need two cores, twice its networks' memory, and 1 GiB for cuDNN and
    CUDA (ours: not measured). need: from `needs`, for a GPU.
    """
    cores = os.cpu_count() or 1
    if not CAN_FORK or torch.cuda.is_initialized() or launched_processes() > 1:
        return 1
    if device == "cpu":
        return min(MOST_JOBS, cores)
    return max(1, min(MOST_JOBS, cores // 2, int(0.8 * gpu / (2 * need["training"] + 1))))


def gpu_memory(device: str = "cuda") -> float:
    """GiB of the GPU `device`, 0.0 without one. A fork asks: this process must stay forkable."""
    if CAN_FORK and not torch.cuda.is_initialized():
        context = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(1, context, initializer=end_with_parent) as fork:
            with suppress(RuntimeError):  # if this process asked before (in a notebook)
                return fork.submit(_gpu_memory, device).result()
    return _gpu_memory(device)


def end_with_parent() -> None:
    """From here on this process, a child of multiprocessing, ends when its parent does."""

    def wait():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _gpu_memory(device: str) -> float:
    index = torch.device(device).index or 0
    if not torch.cuda.is_available() or index >= torch.cuda.device_count():
        return 0.0
    return torch.cuda.get_device_properties(index).total_memory / GIB
