"""How much memory one adversarial step of the paper preset takes, computed on a CPU.

    python tests/benchmarks/bench_memory.py [--out memory_paper.json] [--only plain ...]

The step is the package's own (lines 2, 3 and 9 of Algorithm 1: `ppad.trainer.Game` with its
optimizers, random pictures, one face a frame), and so are its tensors, allocated and freed as
always: a dispatch mode looks at the results of every operation, counts each storage once, and
forgets it when it is freed. Only the arithmetic of convolutions and matrix products is left out
(zeros come back, of the right shape and type), so the step takes seconds and its losses mean
nothing. D's pretraining, which is not accumulated, is counted likewise: one update on
`pretrain_recognizer_batch` crops. Writes JSON.

"kept" are the bytes that one part of the networks keeps for its backward pass, from shapes alone
(`ppad.optim.kept_bytes`). Not counted: the CUDA context (about half a GiB), cuDNN's workspaces,
what the caching allocator holds in reserve, and what operations allocate inside. bfloat16 is a
CPU's autocast here, which keeps some more operations in fp32 than a GPU's.
"""

import argparse
import json
import os
import platform
import sys
import weakref
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from ppad import config as presets
from ppad import optim, trainer
from ppad.crop_sampler import template
from ppad.evaluate import ASSUMED
from ppad.optim import processor
from ppad.players import (
    aligned_crops,
    make_detector,
    make_modifier,
    make_recognizer,
)

GIB = 2**30
SAVING = {
    "plain": {},
    "accumulate": {"accumulate": 2},
    "checkpointing": {"checkpointing": True},
    "accumulate and checkpointing": {"accumulate": 2, "checkpointing": True},
    "accumulate, checkpointing and bf16": {
        "accumulate": 2,
        "checkpointing": True,
        "precision": "bf16",
    },
}
ATEN = torch.ops.aten
COSTLY = {
    ATEN.convolution.default,
    ATEN.convolution_backward.default,
    ATEN.mm.default,
    ATEN.addmm.default,
    ATEN.bmm.default,
}


class Counted(TorchDispatchMode):
    """Bytes of the storages that operations made in here and that are alive: `now` and `peak`."""

    def __init__(self):
        super().__init__()
        self.now = 0
        self.peak = 0
        self.known = {}

    def __torch_dispatch__(self, operation, types, given=(), named=None):
        made = (
            zeros(operation, given, named or {})
            if operation in COSTLY
            else operation(*given, **(named or {}))
        )
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor) and tensor.device.type == "cpu":
                self.note(tensor.untyped_storage())
        return made

    def note(self, storage):
        key = storage.data_ptr()
        size = storage.nbytes()
        if size == 0 or (key in self.known and self.known[key]() is storage):
            return
        self.now += size
        self.peak = max(self.peak, self.now)

        def freed(_, key=key, size=size):
            self.now -= size
            self.known.pop(key, None)

        self.known[key] = weakref.ref(storage, freed)


def zeros(operation, given, named):
    """What a costly operation would give, in shape and type, without its arithmetic."""
    shapes = operation(
        *tree_map_only(torch.Tensor, lambda tensor: tensor.to("meta"), given), **named
    )
    return tree_map_only(
        torch.Tensor,
        lambda tensor: torch.empty_strided(
            tensor.shape, tensor.stride(), dtype=tensor.dtype
        ).zero_(),
        shapes,
    )


def players(config):
    return (
        make_recognizer(config, ASSUMED["train_people"]),
        make_detector(config, ASSUMED["classes"]),
        make_modifier(config),
    )


def a_step(config) -> dict:
    """GiB of the weights, of gradients and Adam's moments, and the peak of a step."""
    with Counted() as counted:
        game = trainer.Game(config, *players(config))
        weights = counted.now
        size = config.face_size
        high = config.frame_height
        wide = config.frame_width
        pictures = 2 * torch.rand(config.batch_faces, 3, size, size) - 1
        landmarks = template((size, size)).repeat(len(pictures), 1, 1)
        identities = torch.randint(ASSUMED["train_people"], (len(pictures),))
        frames = 2 * torch.rand(config.batch_frames, 3, high, wide) - 1
        person = torch.tensor([[0.25, 0.25, 0.75, 0.75]]) * torch.tensor([wide, high] * 2)
        targets = [{"boxes": person, "labels": torch.ones(1, dtype=torch.long)} for _ in frames]
        boxes = [person * 0.5 for _ in frames]  # a face of a quarter of the frame's sides
        peaks = {}
        for _ in range(2):  # from the second step on Adam has its moments
            counted.peak = counted.now
            with torch.set_grad_enabled(config.accumulate == 1):
                modified = game.anonymize(pictures)
            game.update_recognizer(pictures, modified, landmarks, identities)
            peaks["D's update"] = counted.peak
            counted.peak = counted.now
            game.update_modifier_and_detector(
                pictures, modified, landmarks, identities, frames, targets, boxes
            )
            peaks["M's and A's update"] = counted.peak
            del modified
        standing = counted.now
    return {
        "weights": gib(weights),
        "weights, gradients, Adam and the batch": gib(standing),
        **{name: gib(value) for name, value in peaks.items()},
        "peak": gib(max(peaks.values())),
    }


def pretraining(config) -> float:
    """GiB at the peak of one update of D alone on `pretrain_recognizer_batch` crops."""
    with Counted() as counted:
        recognizer = players(config)[0]
        optim.prepare(recognizer, config, "cpu")
        optimizer = optim.adam(recognizer.parameters(), 1e-3, config)
        scaler = optim.make_scaler(config, "cpu")
        size = config.face_size
        pictures = torch.rand(config.pretrain_recognizer_batch, 3, size, size)
        crops = aligned_crops(
            pictures,
            template((size, size)).repeat(len(pictures), 1, 1),
            (config.recognizer_height, config.recognizer_breadth),
        )
        for _ in range(2):
            counted.peak = counted.now
            with optim.autocast(config, "cpu"):
                loss = recognizer.loss(crops, torch.zeros(len(crops), dtype=torch.long))
            optim.backward_and_step(loss, [optimizer], scaler)
    return gib(counted.peak)


def kept(config) -> dict:
    """GiB that each part keeps for its backward pass in one part of a batch, in fp32."""
    with torch.device("meta"):
        recognizer, detector, modifier = players(config)
    parts = {
        "M on the faces": (modifier, config.batch_faces, config.face_size, config.face_size),
        "M on the frames' faces": (
            modifier,
            config.batch_frames,
            config.face_size,
            config.face_size,
        ),
        "D on M's faces": (
            recognizer.network,
            config.batch_faces,
            config.recognizer_height,
            config.recognizer_breadth,
        ),
        "A's body on the frames": (
            detector.model.backbone,
            config.batch_frames,
            config.frame_height,
            config.frame_width,
        ),
    }
    if config.checkpointing:
        for network, *_ in parts.values():
            optim.recompute(network)
    return {
        name: gib(optim.kept_bytes(network, batch // config.accumulate, 3, high, wide))
        for name, (network, batch, high, wide) in parts.items()
    }


def gib(size):
    return round(size / GIB, 3)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("memory_paper.json"))
    parser.add_argument("--only", nargs="+", default=list(SAVING), choices=list(SAVING))
    args = parser.parse_args()
    torch.manual_seed(0)
    result = {
        "how": "computed on a CPU by counting a step's tensors; no GPU was used",
        "preset": "paper",
        "unit": "GiB",
        "machine": {
            "platform": platform.platform(),
            "processor": processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
        },
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
    }
    for name in args.only:
        config = presets.build("paper", **SAVING[name])
        result[name] = {
            "fields": SAVING[name],
            "step": a_step(config),
            "D's pretraining": pretraining(config),
            "kept": kept(config),
        }
        print(name, json.dumps(result[name]), flush=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
