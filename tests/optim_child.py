"""Trainings that test_optim.py runs in one process and, under torchrun, in two.

    python optim_child.py FOLDER

Nothing in them is random, so that two processes can be compared with one: no jitter; A samples all
its anchors and all its proposals, the same number in each frame; and it has GroupNorm in place of
batch norm, which on a CPU would see one process's part. The optimizer is plain SGD: Adam divides a
gradient by its own size, so where a gradient is nothing but rounding (M's biases before instance
norm) it would compare rounding with rounding.
"""

import io
import signal
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from conftest import TINY
from torch import nn

from ppad import attackers, config, datasets, optim, players, reproduce, trainer
from ppad.loop import Interrupted, Loop

PLAIN = {
    "landmark_jitter": 0.0,
    "batch_frames": 2,
    "lr_recognizer": 0.003,
    "lr_modifier": 0.01,
    "lr_warmup": 0.01,
    "lr_detector": 0.01,
    "T1": 2,
    "T2": 1,
    "pretrain_recognizer_batch": 8,
}


def settled(detector):
    """A without random sampling, and with every frame of the same weight in its losses."""
    for parent in list(detector.modules()):
        for name, norm in list(parent.named_children()):
            if isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d)):
                setattr(parent, name, nn.GroupNorm(1, norm.num_features))
    rpn = detector.model.rpn
    roi = detector.model.roi_heads
    rpn.nms_thresh = 1.0  # the best 32 proposals, wherever they are
    # No anchor is left out as undecided.
    rpn.proposal_matcher.low_threshold = rpn.proposal_matcher.high_threshold
    rpn.fg_bg_sampler.batch_size_per_image = roi.fg_bg_sampler.batch_size_per_image = 10000
    return detector


def game(settings, settle=settled):
    torch.manual_seed(0)
    return trainer.Game(
        settings,
        players.make_recognizer(settings, 6),
        settle(players.make_detector(settings, 10)),
        players.make_modifier(settings),
    )


def play(folder, settings, settle=settled, kind=Loop, log_every=1):
    faces = datasets.toy_faces(0, range(6), 4, 32)
    actions = datasets.toy_actions(0, 10, 96, range(6))
    loop = kind(folder, "Ours", 3, {}, log_every, checkpoint_seconds=1e9)
    trainer.play(game(settings, settle), faces, actions, settings, loop)


def pretrain(folder, settings):
    faces = datasets.toy_faces(0, range(6), 4, 32)
    recognizer = game(settings).recognizer
    loop = Loop(folder, "D", 3, {}, log_every=1)
    attackers.train_recognizer(recognizer, faces, settings, 3, loop, seed=1)


def everything(folder):
    """D's pretraining, and a whole row (copying, warm-up, game, finetuning), whole and in parts."""
    adam = optim.adam
    optim.adam = lambda parameters, lr, *_: torch.optim.SGD(parameters, lr)
    try:
        settings = config.build("toy", **{**TINY, **PLAIN})
        pretrain(folder / "D", settings)
        play(folder / "whole", settings)
        saving = {"batch_frames": 4, "accumulate": 2, "checkpointing": True}
        play(folder / "parts", config.build("toy", **{**TINY, **PLAIN, **saving}))
    finally:
        optim.adam = adam


def with_a_break(folder):
    """A game as it is, random numbers and Adam included, once in one go and once with Ctrl-C.

    Ctrl-C reaches the second process alone, in the game's first step.
    """
    settings = config.build("toy", **{**TINY, "T1": 2, "T2": 1})
    play(folder / "unbroken", settings, as_it_is)
    try:  # a stop does not wait for the next line of the log
        play(folder / "broken", settings, as_it_is, Pressed, log_every=50)
    except Interrupted as stop:
        (folder / f"stopped{optim.rank()}.txt").write_text(str(stop))
    play(folder / "broken", settings, as_it_is)
    (folder / f"random{optim.rank()}.txt").write_text(str(torch.rand(1).item()))


def as_it_is(detector):
    return detector


class Pressed(Loop):
    def log(self, terms):
        if "L_det" in terms and "L_adv" in terms and optim.rank() == 1:  # in the game
            signal.raise_signal(signal.SIGINT)
        super().log(terms)


def flags(**changes):
    """The tiny preset as words of the command line."""
    fields = {**TINY, "device": "cpu", **changes}
    return [word for name, value in fields.items() for word in (f"--{name}", str(value))]


def main_job(folder):
    """The real main job: stopped by Ctrl-C like `with_a_break`, then run to its end."""
    words = flags()
    for kind in (Pressed, Loop):
        reproduce.Loop = kind
        status = reproduce.main([*words, "--rows", "Ours", "--out", str(folder / "main")])
        (folder / f"{kind.__name__}{optim.rank()}.txt").write_text(str(status))


def given_the_person(folder):
    """The row of an M that is given the person; each process notes its players' weights."""
    words = flags(modifier_exchange=True)
    reproduce.draw = lambda *_: None  # no figure is looked at
    play = trainer.play

    def noted(game, *given):
        play(game, *given)
        networks = {"M": game.anonymizer, "D": game.recognizer, "reader": game.exchange.reader}
        weights = {name: list(network.parameters()) for name, network in networks.items()}
        torch.save(weights, folder / f"weights{optim.rank()}.pt")

    trainer.play = noted
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # lines are counted
        reproduce.main([*words, "--rows", "Ours", "--out", str(folder / "given")])
    trainer.play = play


if __name__ == "__main__":
    torch.set_num_threads(1)
    optim.init_distributed("cpu", config.build("toy", **TINY))
    everything(Path(sys.argv[1]))
    with_a_break(Path(sys.argv[1]))
    # Processes that torchrun started connect once.
    optim.init_distributed = optim.shut_down = lambda *_: None
    main_job(Path(sys.argv[1]))
    given_the_person(Path(sys.argv[1]))
    optim.run_on_main(lambda: sys.exit(3))  # torchrun must end the other, which waits for it
