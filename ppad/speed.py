"""How fast a training runs, and in how much memory, apart from what it learns (ours; the paper says nothing).

Six fields of a preset, all off unless asked for, because a CPU gains little by them:

    precision      "bf16" or "fp16": the networks compute in half precision (torch's autocast). Weights, losses, the
                   angles of D's head, alignment and pasting stay in fp32. fp16 reaches only down to 6e-8, so its losses
                   are scaled up before the backward pass and the gradients down after it (`GradScaler`).
    channels_last  pictures lie in memory with their channels side by side, as a GPU's matrix units want them.
    compile        torch.compile for M, D's network and A's body. (A's proposals have a new shape each time: not worth it.)
    fused          Adam as one kernel instead of one for each operation.
    accumulate     a batch is taken in that many parts, one after another, and one step follows: same gradients, less
                   memory. Random draws (jitter, A's sampling of regions) fall otherwise, and batch norm sees a part at a
                   time. M and D have none (M's instance norm sees one picture); A has some where it starts from nothing,
                   and with `detector_weights` its statistics are fixed.
    checkpointing  a block of a network (M's residual blocks and its two ends, D's units, those of A's body) keeps what
                   comes in, and works out again what lies inside when the backward pass needs it (Chen et al. 2016):
                   less memory for about a third more work. Not together with `compile`, which plans memory itself.

All but `precision` change results by rounding only, so a run may go on with other ones. Where several processes train
together (`ppad.ranks`), `descend` takes the mean of their gradients.
"""

from contextlib import contextmanager, nullcontext
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ppad import ranks

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)
LONGEST_GRADIENT = 10.0  # ours: an unlucky batch of a young Faster R-CNN can throw weights far away


class Speed:
    """The six fields at work for the players of one training. config: a preset; device: where they live."""

    def __init__(self, config, device):
        self.config, self.kind, self.dtype = (
            config,
            torch.device(device).type,
            PRECISIONS[config.precision],
        )
        self.scaler = torch.amp.GradScaler(self.kind, enabled=config.precision == "fp16")
        self.turn, self.turns = 0, 1  # which part of how many is being learnt from
        self.averaging = {}  # optimizers -> ranks.Averaging of their weights

    def parts(self) -> dict:
        """What a checkpoint must hold besides players and optimizers."""
        return {"scaler": self.scaler} if self.scaler.is_enabled() else {}

    def prepare(self, network: nn.Module) -> None:
        """Lay out, checkpoint and compile a network in place; its state dict keeps its names."""
        ranks.join_norms(network)
        for layer in network.modules():
            if isinstance(layer, nn.PReLU) and self.dtype is not None and self.kind == "cpu":
                layer.register_forward_pre_hook(
                    _in_full
                )  # autocast sees to it on a GPU, not on a CPU
        if self.config.channels_last:
            network.to(memory_format=torch.channels_last)
        if self.config.checkpointing:
            recompute(network)
        if self.config.compile:
            network.compile()

    def adam(self, parameters, *settings) -> torch.optim.Adam:
        """torch's Adam with torch's own choice of loop, or fused."""
        return torch.optim.Adam(parameters, *settings, fused=self.config.fused or None)

    def autocast(self):
        """The context for a forward pass of a network."""
        return nullcontext() if self.dtype is None else torch.autocast(self.kind, self.dtype)

    def in_parts(self, update, *batch) -> dict:
        """Call `update(*batch)`, which ends in `descend`, on `accumulate` equal parts; the terms' means come back.

        batch: tensors and lists, the pictures along their first axis. Only the last part's `descend` takes the step.
        Raises ValueError for a batch that does not divide.
        """
        turns = self.config.accumulate
        if turns == 1:
            return update(*batch)
        for one in batch:
            if len(one) % turns:
                raise ValueError(f"accumulate is {turns}: it must divide a batch of {len(one)}")
        self.turns, told = turns, []
        try:
            for self.turn in range(turns):
                part = [
                    one[self.turn * len(one) // turns : (self.turn + 1) * len(one) // turns]
                    for one in batch
                ]
                told.append({name: term.detach() for name, term in update(*part).items()})
        finally:
            self.turn, self.turns = 0, 1
        return {name: torch.stack([terms[name] for terms in told]).mean() for name in told[0]}

    def descend(self, optimizers, loss: torch.Tensor) -> bool:
        """Gradients of `loss`, then a step of each optimizer, unless more parts of the batch are to come; was it taken?"""
        if self.turn == 0:
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
        if self.turns > 1:
            loss = loss / self.turns
        if self.turn == self.turns - 1:  # the processes wait for each other once a step
            loss = self._averaging(optimizers)(loss)
        self.scaler.scale(loss).backward()
        if self.turn < self.turns - 1:
            return False
        for optimizer in optimizers:
            self.scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], LONGEST_GRADIENT)
            self.scaler.step(optimizer)  # fp16: not with a gradient that ran over
        self.scaler.update()
        return True

    def _averaging(self, optimizers):
        learners = tuple(optimizers)
        if learners not in self.averaging:
            weights = [
                weight for optimizer in learners for weight in optimizer.param_groups[0]["params"]
            ]
            self.averaging[learners] = ranks.Averaging(weights)
        return self.averaging[learners]


def _in_full(layer, given):
    return given[0].float()


# ---------------------------------------------------------------- activation checkpointing


def blocks(network: nn.Module) -> list[nn.Module]:
    """The parts of `network` that are checkpointed: what has layers inside and stands in an nn.Sequential, else an
    nn.Sequential of layers; never one in another.

    Found by form, not by name: M's residual blocks, its first and last third; D's units; a ResNet's bottlenecks.
    """
    found = []
    for part in network.children():
        if isinstance(part, nn.Sequential) and any(_has_layers(inner) for inner in part):
            found += [inner for inner in part if _has_layers(inner)]
        elif isinstance(part, nn.Sequential) and len(part) > 1:
            found.append(part)
        else:
            found += blocks(part)
    return found


def recompute(network: nn.Module) -> None:
    """Checkpoint the blocks of `network`, in place and without renaming; a second time does nothing."""
    for block in blocks(network):
        if "forward" not in vars(block):  # a copy of a checkpointed network is one already
            block.forward = partial(_checkpointed, block, block.forward)


def _checkpointed(block, forward, *given):
    if not torch.is_grad_enabled():
        return forward(*given)
    return checkpoint(
        forward, *given, use_reentrant=False, context_fn=lambda: (nullcontext(), _again(block))
    )


@contextmanager
def _again(block):
    """While a block works something out for the second time, its batch norms do not count it a second time."""
    norms = [
        (layer, layer.momentum, layer.num_batches_tracked)
        for layer in block.modules()
        if isinstance(layer, NORMS)
    ]
    for norm, _, _ in norms:
        norm.momentum, norm.num_batches_tracked = (
            0.0,
            None,
        )  # 1 x the average so far + 0 x this batch
    try:
        yield
    finally:
        for norm, momentum, counted in norms:
            norm.momentum, norm.num_batches_tracked = momentum, counted


def _has_layers(module):
    return next(module.children(), None) is not None
