"""How fast one adversarial step is, plain and tuned, whole and by part, and in how much memory.

    python tests/benchmarks/bench_step.py --out step.json [--small] [--steps 20] [--device cuda]
        [--threads 1] [--tuned precision=bf16 channels_last=true fused=true compile=true]
        [--peak 495 989] [--set batch_frames=2 ...]

One step is what ppad.trainer plays (lines 2, 3 and 9 of Algorithm 1), at paper scale: M on 256x256
faces and on the faces of the frames, A on 600x800, D on 112x96, random pictures, one face a frame.
`--small` has small networks and pictures, for a CPU. "plain" is torch as it comes (fp32, on an
NVIDIA GPU with TF32 in convolutions); "tuned" has the fields given with --tuned (see ppad.optim;
default: the four above on a GPU; bf16 and channels_last on a CPU). Each runs in its own process.

Times are medians after WARM unmeasured steps, with the GPU synchronized. Pictures are faces and
frames of a step. Memory is the GPU's peak, on a CPU the process's peak less what it had before the
networks were made. FLOPs are counted by torch over a plain step, forward and backward; their share
of the peak needs the GPU's published dense peak in TFLOP/s, of the plain kind (TF32 or fp32) and of
the tuned kind (bf16): known for PEAKS, else `--peak PLAIN TUNED`. Writes JSON.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
WARM = 3
PEOPLE = 10572
CLASSES = 10
TUNED = {
    "cuda": ["precision=bf16", "channels_last=true", "fused=true", "compile=true"],
    "cpu": ["precision=bf16", "channels_last=true"],
}
PEAKS = {
    "H100": (495, 989),
    "H200": (495, 989),
    "A100": (156, 312),
    "L4": (60, 121),
}  # TFLOP/s, NVIDIA's data sheets
SMALL = {
    "face_size": 64,
    "modifier_width": 16,
    "modifier_blocks": 3,
    "recognizer_depth": 10,
    "recognizer_width": 16,
    "embedding": 128,
    "recognizer_height": 56,
    "recognizer_breadth": 48,
    "detector_body": "toy",
    "frame_height": 160,
    "frame_width": 160,
    "batch_faces": 8,
    "batch_frames": 4,
}  # the toy preset's


def seconds(work, device, steps):
    """Median time of `work()` over `steps`, after WARM."""
    import torch

    times = []
    for number in range(WARM + steps):
        began = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        if number >= WARM:
            times.append(time.perf_counter() - began)
    return statistics.median(times)


def peak_bytes(device):
    import torch

    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def measure(fields, device, steps):
    """One variant: seconds of a step and of its parts, peak memory, FLOPs."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from ppad import config as presets
    from ppad import losses, trainer
    from ppad.crop_sampler import crop_faces, paste_faces, template
    from ppad.players import aligned_crops, make_detector, make_modifier, make_recognizer

    def typed(name, text):
        kind = type(getattr(presets.Paper, name))
        return text.lower() == "true" if kind is bool else kind(text)

    config = presets.build("paper", **{name: typed(name, text) for name, text in fields})
    before = 0 if device == "cuda" else peak_bytes(device)
    torch.manual_seed(0)
    game = trainer.Game(
        config,
        make_recognizer(config, PEOPLE),
        make_detector(config, CLASSES),
        make_modifier(config),
        device,
    )
    size = config.face_size
    high = config.frame_height
    wide = config.frame_width
    pictures = 2 * torch.rand(config.batch_faces, 3, size, size, device=device) - 1
    landmarks = template((size, size)).expand(len(pictures), 5, 2)
    # What is known of the pictures is on the CPU, as in a run.
    identities = torch.randint(PEOPLE, (len(pictures),))
    frames = 2 * torch.rand(config.batch_frames, 3, high, wide, device=device) - 1
    person = torch.tensor([[0.25, 0.25, 0.75, 0.75]]) * torch.tensor([wide, high] * 2)
    targets = [{"boxes": person, "labels": torch.ones(1, dtype=torch.long)} for _ in frames]
    boxes = [person * 0.5 for _ in frames]  # a face of a quarter of the frame's sides

    def step():
        with torch.set_grad_enabled(config.accumulate == 1):
            modified = game.anonymize(pictures)
        batch = pictures, modified, landmarks, identities
        game.update_recognizer(*batch)
        game.update_modifier_and_detector(*batch, frames, targets, boxes)

    answer = {"seconds": seconds(step, device, steps)}
    answer["peak_gib"] = round((peak_bytes(device) - before) / 2**30, 3)
    crops = aligned_crops(
        pictures, landmarks, (config.recognizer_height, config.recognizer_breadth)
    ).clone()
    faces = crop_faces(frames, boxes, size).clone()

    def both_ways(forward):
        """Forward and backward of a part; gradients of weights and pictures are thrown away."""

        def work():
            for player in (game.anonymizer, game.recognizer, game.detector):
                player.zero_grad(set_to_none=True)
            for picture in (pictures, crops, faces, frames):
                picture.grad = None
            forward().sum().backward()

        return work

    def loss_of_D():
        with game.autocast:
            return game.recognizer.loss(crops, identities)

    def loss_of_A():
        with game.autocast:
            return losses.loss_det(game.detector.losses(frames, targets))

    game.detector.train()
    for picture in (pictures, crops, faces, frames):
        picture.requires_grad_()
    parts = {
        "M": lambda: game.anonymize(pictures),
        "D": loss_of_D,
        "A": loss_of_A,
        "align for D": lambda: aligned_crops(
            pictures, landmarks, (config.recognizer_height, config.recognizer_breadth)
        ),
        "crop from frames": lambda: crop_faces(frames, boxes, size),
        "paste": lambda: paste_faces(frames, faces, boxes),
    }
    answer["ms_by_part_forward_and_backward"] = {
        name: round(1000 * seconds(both_ways(part), device, steps), 2)
        for name, part in parts.items()
    }
    for picture in (pictures, crops, faces, frames):
        picture.requires_grad_(False)
    if not config.compile:  # a compiled network's work is not seen by the counter
        with FlopCounterMode(display=False) as counter:
            step()
        answer["tflop"] = counter.get_total_flops() / 1e12
    answer |= {
        "pictures": len(pictures) + len(frames),
        "batch_faces": len(pictures),
        "batch_frames": len(frames),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
    }
    return answer


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("step.json"))
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--device", choices=("cuda", "cpu"))
    parser.add_argument("--threads", type=int, help="on a CPU (default: torch's own choice)")
    parser.add_argument("--tuned", nargs="+", metavar="FIELD=VALUE")
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="FIELD=VALUE",
        help="fields of the preset for both variants",
    )
    parser.add_argument(
        "--peak",
        nargs=2,
        type=float,
        metavar=("PLAIN", "TUNED"),
        help="the GPU's dense peaks in TFLOP/s",
    )
    parser.add_argument(
        "--note", default="", help="a word about the machine, for the JSON: 'shared', say"
    )
    parser.add_argument("--one", nargs="*", help=argparse.SUPPRESS)
    args = parser.parse_args()
    import torch

    from ppad.optim import processor

    if args.threads:
        torch.set_num_threads(args.threads)
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if args.one is not None:  # inside a variant's own process
        return print(
            json.dumps(measure([field.split("=") for field in args.one], device, args.steps))
        )
    base = [f"{name}={value}" for name, value in SMALL.items()] * args.small + args.set
    tuned = args.tuned or TUNED[device]
    result = {
        "device": device,
        "scale": "small" if args.small else "paper",
        "note": args.note,
        "steps": args.steps,
        "machine": {
            "platform": platform.platform(),
            "processor": processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
        },
        "set": args.set,
        "tuned_fields": tuned,
    }
    for name, fields in (("plain", base), ("tuned", base + tuned)):
        command = [
            sys.executable,
            __file__,
            "--steps",
            str(args.steps),
            "--device",
            device,
            "--one",
            *fields,
        ]
        command += ["--threads", str(args.threads)] if args.threads else []
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        result[name] = json.loads(output.strip().splitlines()[-1])
    tflop = result["plain"]["tflop"]
    known = next(
        (peaks for key, peaks in PEAKS.items() if key in (result["plain"]["gpu"] or "")), None
    )
    for name, peak in zip(("plain", "tuned"), args.peak or known or (None, None)):
        one = result[name]
        one["ms_a_step"] = round(1000 * one["seconds"], 2)
        one["pictures_a_second"] = round(one["pictures"] / one.pop("seconds"), 2)
        one["tflop_a_second"] = round(tflop * 1000 / one["ms_a_step"], 4)
        if peak:
            one["share_of_peak"] = round(one["tflop_a_second"] / peak, 4)
    result["tuned_to_plain"] = {
        key: round(result["tuned"][key] / result["plain"][key], 3)
        for key in ("pictures_a_second", "peak_gib")
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
