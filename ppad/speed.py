"""How fast a training runs, and in how much memory, apart from what it learns (ours; the paper says nothing).

Five fields of a preset, all off unless asked for, because a CPU gains little by them:

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

All but `precision` change results by rounding only, so a run may go on with other ones.
"""
from contextlib import nullcontext

import torch
from torch import nn

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
LONGEST_GRADIENT = 10.0    # ours: an unlucky batch of a young Faster R-CNN can throw weights far away


class Speed:
    """The five fields at work for the players of one training. config: a preset; device: where they live."""

    def __init__(self, config, device):
        self.config, self.kind, self.dtype = config, torch.device(device).type, PRECISIONS[config.precision]
        self.scaler = torch.amp.GradScaler(self.kind, enabled=config.precision == "fp16")
        self.turn, self.turns = 0, 1                              # which part of how many is being learnt from

    def parts(self) -> dict:
        """What a checkpoint must hold besides players and optimizers."""
        return {"scaler": self.scaler} if self.scaler.is_enabled() else {}

    def prepare(self, network: nn.Module) -> None:
        """Lay out and compile a network in place; its state dict keeps its names."""
        for layer in network.modules():
            if isinstance(layer, nn.PReLU) and self.dtype is not None and self.kind == "cpu":
                layer.register_forward_pre_hook(_in_full)         # autocast sees to it on a GPU, not on a CPU
        if self.config.channels_last:
            network.to(memory_format=torch.channels_last)
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
                part = [one[self.turn * len(one) // turns:(self.turn + 1) * len(one) // turns] for one in batch]
                told.append({name: term.detach() for name, term in update(*part).items()})
        finally:
            self.turn, self.turns = 0, 1
        return {name: torch.stack([terms[name] for terms in told]).mean() for name in told[0]}

    def descend(self, optimizers, loss: torch.Tensor) -> bool:
        """Gradients of `loss`, then a step of each optimizer, unless more parts of the batch are to come; was it taken?"""
        if self.turn == 0:
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss if self.turns == 1 else loss / self.turns).backward()
        if self.turn < self.turns - 1:
            return False
        for optimizer in optimizers:
            self.scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], LONGEST_GRADIENT)
            self.scaler.step(optimizer)                           # fp16: not with a gradient that ran over
        self.scaler.update()
        return True


def _in_full(layer, given):
    return given[0].float()
