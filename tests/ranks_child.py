"""Trainings that test_ranks.py plays in one process and, under torchrun, in two: `python ranks_child.py FOLDER`.

Nothing in them is drawn by chance, so that two processes can be compared with one: no jitter; A judges all its anchors and
all its proposals, the same number in each frame; and it has GroupNorm for batch norm, which on a CPU would see one
process's share. The optimizer is plain SGD: Adam divides a gradient by its own size, so where a gradient is nothing but
rounding (M's biases before instance norm) it would compare rounding with rounding.
"""

import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from conftest import TINY
from torch import nn

from ppad import attacks, config, datasets, ranks, reproduce, trainer
from ppad.loop import Interrupted, Loop
from ppad.speed import Speed

PLAIN = {
    "landmark_jitter": 0.0,
    "batch_frames": 2,
    "lr_recognizer": 0.003,
    "lr_modifier": 0.01,
    "lr_practice": 0.01,
    "lr_detector": 0.01,
    "T1": 2,
    "T2": 1,
    "pretrain_recognizer_batch": 8,
}


def settled(detector):
    """A with nothing left to chance, and every frame with the same say in its losses."""
    for parent in list(detector.modules()):
        for name, norm in list(parent.named_children()):
            if isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d)):
                setattr(parent, name, nn.GroupNorm(1, norm.num_features))
    rpn, roi = detector.model.rpn, detector.model.roi_heads
    rpn.nms_thresh = 1.0  # the best 32 proposals, wherever they are
    rpn.proposal_matcher.low_threshold = (
        rpn.proposal_matcher.high_threshold
    )  # no anchor is left out as undecided
    rpn.fg_bg_sampler.batch_size_per_image = roi.fg_bg_sampler.batch_size_per_image = 10000
    return detector


def game(settings, settle=settled):
    torch.manual_seed(0)
    return trainer.Game(
        settings,
        trainer.make_recognizer(settings, 6),
        settle(trainer.make_detector(settings, 10)),
        trainer.make_modifier(settings),
    )


def play(folder, settings, settle=settled, kind=Loop, log_every=1):
    faces, actions = (
        datasets.toy_faces(0, range(6), 4, 32),
        datasets.toy_actions(0, 10, 96, range(6)),
    )
    trainer.play(
        game(settings, settle),
        faces,
        actions,
        settings,
        kind(folder, "Ours", 3, {}, log_every, checkpoint_seconds=1e9),
    )


def pretrain(folder, settings):
    faces = datasets.toy_faces(0, range(6), 4, 32)
    recognizer = game(settings).recognizer
    batches = datasets.Batches(len(faces), settings.pretrain_recognizer_batch, seed=1)
    attacks.train_recognizer(
        recognizer, faces, batches, settings, 3, Loop(folder, "D", 3, {}, log_every=1)
    )


def everything(folder):
    """D's pretraining; M's copying, M's practice against D, the adversarial steps and A's own, whole and in parts."""
    adam, Speed.adam = Speed.adam, lambda self, weights, rate, *_: torch.optim.SGD(weights, rate)
    try:
        settings = config.build("toy", **{**TINY, **PLAIN})
        pretrain(folder / "D", settings)
        play(folder / "whole", settings)
        play(
            folder / "parts",
            config.build(
                "toy",
                **{**TINY, **PLAIN, "batch_frames": 4, "accumulate": 2, "checkpointing": True},
            ),
        )
    finally:
        Speed.adam = adam


def with_a_break(folder):
    """A game as it is, chance and Adam included, once in one go and once with Ctrl-C, at the second process, in its first step."""
    settings = config.build("toy", **{**TINY, "T1": 2, "T2": 1})
    play(folder / "unbroken", settings, as_it_is)
    try:
        play(
            folder / "broken", settings, as_it_is, Pressed, log_every=50
        )  # a stop does not wait for the next line
    except Interrupted as stop:
        (folder / f"stopped{ranks.number()}.txt").write_text(str(stop))
    play(folder / "broken", settings, as_it_is)
    (folder / f"chance{ranks.number()}.txt").write_text(str(torch.rand(1).item()))


def as_it_is(detector):
    return detector


class Pressed(Loop):
    def stage(self, name, steps, step, after=None):
        def pressing(number):
            if name == "game" and ranks.number() == 1:
                signal.raise_signal(signal.SIGINT)
            return step(number)

        super().stage(name, steps, pressing, after)


def main_job(folder):
    """The real main job: stopped by Ctrl-C at the second process in the game's first step, then run to its end."""
    words = [
        word
        for name, value in {**TINY, "device": "cpu"}.items()
        for word in (f"--{name}", str(value))
    ]
    for kind in (Pressed, Loop):
        reproduce.Loop = kind
        status = reproduce.main([*words, "--rows", "Ours", "--out", str(folder / "main")])
        (folder / f"{kind.__name__}{ranks.number()}.txt").write_text(str(status))


if __name__ == "__main__":
    torch.set_num_threads(1)
    ranks.join("cpu", config.build("toy", **TINY))
    everything(Path(sys.argv[1]))
    with_a_break(Path(sys.argv[1]))
    ranks.join = ranks.leave = lambda *_: None  # processes that torchrun started meet once
    main_job(Path(sys.argv[1]))
    ranks.first_does(lambda: sys.exit(3))  # torchrun must end the other, which waits for it
