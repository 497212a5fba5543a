"""Presets: every number of a run in one place, with its source.

`Paper` holds every field, with the paper's value if there is one (Sec. 3-5), and switches off what
the paper does not use. `SMALL` sets what small data need; the other presets build on it. Any field
can be set on the command line of `ppad.reproduce` as `--field value`.

The source of a value is the last text of its `option`, or the comment behind it: a section of the
paper, a component's original source (`SphereFace`: the authors' training file), or `ours`. A reason
follows, unless it is just that small data need less.
"""

import argparse
import dataclasses
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

from ppad.files import read_json

UNBOUNDED = ("adversarial_cap", "memory_gb")  # may be infinite


class ConfigError(ValueError):
    """An invalid setting; the message names the field and says how to fix it."""


def option(default, help: str, source: str):
    """A field of a preset: its value in the paper's preset, its line in --help, its source."""
    return dataclasses.field(default=default, metadata={"help": help, "source": source})


@dataclass
class Paper:
    """Full size: CASIA-WebFace for F, DALY or JHMDB for V, LFW for the test pairs (Sec. 5.1)."""

    def __post_init__(self):
        for name in UNBOUNDED:
            setattr(self, name, float(getattr(self, name)))  # "inf" in files, see as_fields

    @property
    def crop_size(self) -> tuple[int, int]:
        """(height, width) of the aligned crops, px."""
        return self.recognizer_height, self.recognizer_breadth

    # ---- data
    faces: str = option("data/paper/faces", "prepared folder of faces F", "Sec. 5.1")
    actions: str = option("data/paper/daly", "prepared folder of action frames V", "Sec. 5.1")
    drawn: bool = option(False, "draw the toy world instead of reading folders", "ours")
    train_identities: int = option(0, "people to train on; 0 = all in the folder", "ours")
    pictures_each: int = option(0, "pictures per person at most; 0 = all", "ours")
    test_identities: int = option(0, "people in the test pairs (toy world only)", "ours")
    test_pictures_each: int = option(0, "pictures per test person (toy world only)", "ours")
    train_frames: int = option(0, "action frames to train on; 0 = all", "ours")
    test_frames: int = option(0, "action frames to test on; 0 = all", "ours")
    test_pairs: int = option(0, "pairs to draw (toy world); 0 = all of the pairs file", "ours")
    frame_height: int = option(600, "height of the action frames, px", "Sec. 4: 600x800 for DALY")
    frame_width: int = option(800, "width of the action frames, px", "Sec. 4")
    face_scale: float = option(1.6, "side of a face's square / longer side of its box", "Sec. 5.2")
    # ---- M, the face modifier
    face_size: int = option(256, "side of the faces that M modifies, px", "Sec. 4")
    modifier_width: int = option(64, "channels of M's first layer", "Sec. 4, CycleGAN: c7s1-64")
    modifier_blocks: int = option(9, "residual blocks of M", "Sec. 4")
    modifier_upsample: str = option("transposed", '"transposed" or "resize"', "Sec. 4, CycleGAN")
    modifier_match_color: bool = option(False, "match color statistics of M's input", "Sec. 4: no")
    modifier_exchange: bool = option(False, "give M a person to paint (players.Exchanger)", "ours")
    exchange_steps: int = option(0, "updates of an Exchanger M before the game", "ours")
    code_weight: float = option(3.5e-4, "loss per nat in M's code", "ours: more hides, but blurs")
    reader_weight: float = option(7.5, "weight of fooling the code's reader", "ours")
    # ---- D, the recognizer
    recognizer_depth: int = option(20, "layers of D: 4, 10 or 20", "Sec. 4: SphereFace-20")
    recognizer_width: int = option(64, "channels of D's first stage", "SphereFace")
    embedding: int = option(512, "length of D's embedding", "SphereFace: fc5")
    recognizer_height: int = option(112, "height of the aligned crops, px", "SphereFace")
    recognizer_breadth: int = option(96, "width of the aligned crops, px", "SphereFace")
    other_width: int = option(64, "first-stage channels of the other-architecture attacker", "ours")
    margin: int = option(4, "m of the angular margin, 1 to 4", "SphereFace")
    lambda_base: float = option(1e3, "lambda(t) = max(floor, base / (1 + gamma t))", "SphereFace")
    lambda_gamma: float = option(0.12, "gamma in lambda(t)", "SphereFace")
    lambda_floor: float = option(5.0, "floor in lambda(t)", "SphereFace")
    recognizer_scale: float = option(0.0, "D's feature length in L_D; 0 = free", "SphereFace")
    recognizer_weights: str = option("", "public SphereFace-20 file that D starts from", "Sec. 4")
    # ---- A, the action detector
    detector_body: str = option("resnet101_c4", "body of Faster R-CNN (detector.BODIES)", "Sec. 4")
    detector_weights: str = option("", "torchvision's ImageNet file for the body", "ours")
    detector_trainable: int = option(3, "stages of an ImageNet body to train", "ours: torchvision")
    # ---- before the game
    pretrain_recognizer_steps: int = option(28000, "updates of D on originals", "SphereFace: 28k")
    pretrain_recognizer_batch: int = option(256, "batch of D and attackers", "SphereFace: 256-512")
    pretrain_modifier_steps: int = option(0, "updates of M to learn to copy (L1 only)", "ours")
    warmup_steps: int = option(0, "updates of M against a throwaway copy of D", "ours")
    warmup_faces: int = option(16, "faces per step while M learns before the game", "ours")
    lr_warmup: float = option(3e-4, "M's learning rate before the game", "ours: as in the game")
    warmup_recognizers: int = option(1, "copies of D that M warms up against, in turn", "ours")
    warmup_restart: int = option(0, "warm-up steps between restarts of a copy; 0 = never", "ours")
    warmup_updates: int = option(0, "extra updates of D per warm-up step, on kept outputs", "ours")
    pretrain_detector_steps: int = option(12000, "updates of A on originals", "ours")
    landmark_jitter: float = option(0.0, "noise of D's alignment, px at 112x96", "ours")
    color_jitter: float = option(0.0, "noise of contrast and brightness while D learns", "ours")
    # ---- the game, Algorithm 1
    epochs: int = option(12, "passes of the game through the action frames", "Sec. 4")
    T1: int = option(0, "steps of the game; 0 = as many as `epochs` take", "Algorithm 1, line 1")
    T2: int = option(10000, "steps for A alone after the game", "ours: no number in the paper")
    lr_detector: float = option(1e-3, "learning rate of A", "Sec. 4")
    lr_modifier: float = option(3e-4, "learning rate of M", "Sec. 4")
    lr_recognizer: float = option(3e-4, "learning rate of D", "Sec. 4")
    adam_beta1: float = option(0.5, "Adam's beta 1", "Sec. 4")
    adam_beta2: float = option(0.999, "Adam's beta 2", "Sec. 4")
    lr_drop_at: float = option(7 / 12, "share of steps before rates drop x0.1", "Sec. 4: 7 of 12")
    batch_faces: int = option(16, "faces per step", "ours: no batch size in the paper")
    batch_frames: int = option(2, "action frames per step", "ours: no batch size in the paper")
    recognizer_updates: int = option(1, "updates of D per step", "Algorithm 1, line 3")
    adversarial_weight: float = option(1.0, "weight of L_adv for M", "eq. 4: no weight")
    l1_weight: float = option(5.0, "lambda, weight of L1", 'ours; eq. 3: "relatively small"')
    detection_weight: float = option(1.0, "weight of L_det for M and A", "eq. 4: no weight")
    adversarial_cap: float = option(math.inf, "cap on L_D in M's term, in log N", "eq. 2: no cap")
    adversarial_margin: bool = option(True, "use the angular margin in M's term", "eq. 2")
    adversarial_target: str = option(
        "ascent", 'M\'s term: "ascent", "random", "entropy" or "non_saturating"', "eq. 2, Sec. 5.6"
    )
    # ---- evaluation
    attack_steps: int = option(28000, "updates of each attacker", "ours: like D's pretraining")
    invert_steps: int = option(28000, "updates of the network that inverts M", "ours: as above")
    landmark_steps: int = option(5000, "updates of the landmark reader", "ours: until accurate")
    folds: int = option(10, "folds of the test pairs", "LFW protocol")
    # ---- the machine (see ppad.optim)
    device: str = option("auto", "auto, cpu, cuda or cuda:1; auto = cuda if there is one", "ours")
    precision: str = option("fp32", "fp32, bf16 or fp16", "ours: bf16 saves GPU memory")
    channels_last: bool = option(False, "memory layout for GPUs", "ours: no gain measured")
    compile: bool = option(False, "torch.compile", "ours: off, not measured on a GPU")
    fused: bool = option(False, "fused Adam kernel", "ours: off, no gain measured")
    accumulate: int = option(1, "parts of each batch of the game, to save memory", "ours")
    checkpointing: bool = option(False, "recompute activations, to save memory", "ours")
    memory_gb: float = option(8.0, "GiB of pictures in memory; decode the rest per batch", "ours")
    workers: int = option(0, "workers that decode pictures; 0 = one per core, max. 16", "ours")
    eval_batch: int = option(32, "pictures per batch where nothing is trained", "ours")
    log_every: int = option(20, "steps between log lines", "ours")
    sample_every: int = option(1000, "steps between sample pictures", "ours")
    checkpoint_seconds: int = option(120, "seconds between checkpoints", "ours: the most you lose")


# Shared by the small presets: sizes for two CPU cores, and what short trainings need.
SMALL = replace(
    Paper(),
    face_size=64,  # ours
    modifier_width=16,  # ours
    modifier_blocks=3,  # ours
    modifier_upsample="resize",  # ours: no checkerboard after a short training
    modifier_match_color=True,  # ours: the picture's own colors after a short training
    modifier_exchange=True,  # ours: hides more, and paints faces instead of smears
    exchange_steps=5000,  # ours: about half an hour on one core
    recognizer_depth=10,  # ours: a few hundred people are too few for SphereFace-20
    recognizer_scale=16.0,  # ours: a free norm shrinks to 0 when M wins (ASoftmaxLoss)
    recognizer_height=56,  # ours: half of 112x96, like the faces
    recognizer_breadth=48,  # ours
    other_width=16,  # ours
    pretrain_recognizer_batch=64,  # ours
    pretrain_modifier_steps=500,  # ours
    warmup_steps=3200,  # ours: about seven minutes on one core
    warmup_faces=8,  # ours: M learns more from twice the steps than from twice the faces
    lr_warmup=1e-3,  # ours: three times the paper's; a small M from scratch has little time
    lr_modifier=5e-4,  # ours: the game only refines M
    lr_recognizer=5e-4,  # ours: D must keep up with a faster M
    epochs=0,  # ours: T1 is given
    batch_frames=8,  # ours
    recognizer_updates=2,  # ours: D must keep up, or its error means nothing
    adversarial_weight=0.15,  # ours: at 1, M destroys faces before it can redraw one
    adversarial_cap=1.0,  # ours: a D at chance is enough; more only swaps people
    adversarial_margin=False,  # ours: without it, log N is the loss of a D at chance
    detection_weight=2.0,  # ours: M meets A late, and must regain what the warm-up lost
    attack_steps=300,  # ours
    invert_steps=300,  # ours
    landmark_steps=400,  # ours
    eval_batch=64,  # ours
    sample_every=100,  # ours
    checkpoint_seconds=60,  # ours
)

# The drawn world on two CPU cores: all rows in about 35 minutes (see ppad.toyworld).
TOY = replace(
    SMALL,
    faces="",  # ours: nothing to read
    actions="",  # ours
    drawn=True,  # ours
    train_identities=300,  # ours: enough that D generalizes to new people
    pictures_each=20,  # ours
    test_identities=80,  # ours: none of them in training
    test_pictures_each=10,  # ours
    train_frames=2400,  # ours
    test_frames=400,  # ours
    test_pairs=2000,  # ours: a standard error of about 1 % at 30 % error
    frame_height=160,  # ours
    frame_width=160,  # ours
    recognizer_width=16,  # ours
    embedding=128,  # ours
    lambda_gamma=0.6,  # ours: reaches the floor at step 332 instead of 1,659
    detector_body="toy",  # ours
    pretrain_recognizer_steps=500,  # ours
    pretrain_detector_steps=700,  # ours
    T1=300,  # ours
    T2=150,  # ours
    lr_detector=2e-3,  # ours: twice the paper's; a small A from scratch has little time
)

# A first look, three minutes on two CPU cores: fewer people, frames and steps; four rows.
QUICK = replace(
    TOY,
    train_identities=120,  # ours: D then errs on about 4 % of the original pairs
    pictures_each=8,  # ours: the retrained attacker repaints them all, twice
    test_identities=40,  # ours
    test_pictures_each=8,  # ours
    train_frames=800,  # ours: drawing them takes time as well
    test_frames=150,  # ours
    test_pairs=800,  # ours: a standard error of about 2 % at 30 % error
    other_width=8,  # ours: a quarter of the work
    lambda_gamma=1.5,  # ours: reaches the floor at step 133 of 300
    pretrain_recognizer_steps=300,  # ours
    pretrain_recognizer_batch=32,  # ours: half of toy's; D errs hardly more, in half the time
    pretrain_detector_steps=550,  # ours: all rows share it, and A learns slowest
    pretrain_modifier_steps=100,  # ours
    exchange_steps=250,  # ours: M trains for about a minute on one core
    warmup_steps=150,  # ours
    batch_faces=8,  # ours
    batch_frames=4,  # ours
    l1_weight=10.0,  # ours: twice toy's, or so few steps leave smears
    lr_detector=3e-3,  # ours: 1.5 times toy's, for fewer, smaller batches
    T1=30,  # ours
    T2=30,  # ours
    attack_steps=100,  # ours
    invert_steps=40,  # ours
    landmark_steps=150,  # ours
)

# Real photographs on two CPU cores, within two hours.
PHOTO_CPU = replace(
    SMALL,
    faces="data/photo_pack/faces",  # ours: people's folders, landmarks.csv
    actions="data/photo_pack/actions",  # ours: stills with annotations.csv and faces.csv
    frame_height=256,  # ours: ImageNet features tell 63 % of actions at 224, 70 % at 320
    frame_width=256,  # ours
    recognizer_width=24,  # ours
    embedding=192,  # ours
    lambda_gamma=0.3,  # ours: reaches the floor at step 664 of 2,500
    detector_body="mobilenet_v2",  # ours: with --detector_weights; 1,000 stills are few
    detector_trainable=4,  # ours
    lr_detector=2e-4,  # ours: at 1e-3 the body forgot ImageNet
    pretrain_recognizer_steps=2500,  # ours: D still learned after 1,500
    pretrain_detector_steps=600,  # ours
    landmark_jitter=1.0,  # ours: 254 people overfit without it
    color_jitter=0.2,  # ours
    T1=120,  # ours: short, for eleven rows x three seeds; M and D are warmed up
    T2=60,  # ours
    folds=2,  # LFW: the pack holds folds 9 and 10
)

# Real photographs on one GPU; two rows of one seed took ten minutes on an H200.
PHOTO = replace(
    PHOTO_CPU,
    frame_height=320,  # ours: the stills' longest side
    frame_width=320,  # ours
    face_size=128,  # ours: the crops are 160x160
    modifier_width=32,  # ours: minutes, not days
    modifier_blocks=6,  # ours: CycleGAN's choice at 128x128
    recognizer_height=112,  # SphereFace
    recognizer_breadth=96,  # SphereFace
    recognizer_width=32,  # ours
    embedding=256,  # ours
    other_width=32,  # ours
    lambda_gamma=0.12,  # SphereFace
    pretrain_recognizer_steps=3000,  # ours: 70 epochs; at the CPU size 30 were enough
    pretrain_recognizer_batch=128,  # ours
    warmup_steps=6400,  # ours: twice as many, for a picture of four times the pixels
    pretrain_detector_steps=1500,  # ours: 12 passes through the stills
    landmark_jitter=1.5,  # ours
    T1=800,  # ours
    T2=160,  # ours
    batch_faces=32,  # ours
    attack_steps=1000,  # ours: the retrained attacker starts from D, the other from scratch
    invert_steps=1000,  # ours
    landmark_steps=1000,  # ours
    sample_every=250,  # ours
)

PRESETS = {"quick": QUICK, "toy": TOY, "photo": PHOTO, "photo_cpu": PHOTO_CPU, "paper": Paper()}
RESTARTS = {"adversarial_target": "entropy", "warmup_restart": 100}  # 32 restarts in toy's warm-up
AS_PRINTED = (
    "modifier_upsample modifier_match_color lr_warmup lr_modifier adversarial_weight "
    "adversarial_cap adversarial_margin detection_weight"
).split()
PLAIN = {  # rows with the M of Sec. 4, not an Exchanger
    "Ours(ascent)": {},  # the paper's adversary, and the small presets' warm-up
    "Ours(paper)": {name: getattr(Paper, name) for name in AS_PRINTED},  # as long as other rows
    "Ours(random)": {"adversarial_target": "random"},  # Sec. 5.6
    "Ours(non-saturating)": {"adversarial_target": "non_saturating"},
    "Ours(entropy)": {"adversarial_target": "entropy"},
    "Ours(entropy, restarts)": RESTARTS,
    "Ours(entropy, restarts, 3 D)": {**RESTARTS, "warmup_recognizers": 3},
    # ours: 8 updates of D per warm-up step, with SMALL's two
    "Ours(strong D)": {"warmup_updates": 6},
}
# All rows with an M, and the fields in which each differs from the preset.
VARIANTS = {"Ours": {}}
VARIANTS |= {name: {"modifier_exchange": False, **fields} for name, fields in PLAIN.items()}
# Fields that a resumed run may change: they change results only by rounding, or (`accumulate`, and
# `eval_batch` for a random anonymizer) by which random numbers are drawn.
MACHINE = (
    "device log_every sample_every checkpoint_seconds eval_batch channels_last compile fused "
    "accumulate checkpointing memory_gb workers "
    "faces actions"  # folders: data have a fingerprint
).split()
ACCUMULATED = ("batch_faces", "batch_frames", "warmup_faces")  # batches that `accumulate` divides
BATCHES = (*ACCUMULATED, "pretrain_recognizer_batch")
AT_LEAST_ONE = (
    "modifier_width recognizer_width other_width embedding recognizer_updates accumulate "
    "eval_batch warmup_recognizers log_every sample_every attack_steps invert_steps "
    "landmark_steps pretrain_detector_steps pretrain_recognizer_steps"
).split()
DRAWN = (
    "train_identities pictures_each test_identities test_pictures_each train_frames test_frames"
).split()
LEAST = {  # the minimum of each field, if it is not 0
    **dict.fromkeys((*BATCHES, *AT_LEAST_ONE), 1),
    **dict.fromkeys(("face_size", "frame_height", "frame_width"), 16),  # halved four times
    **dict.fromkeys(("recognizer_height", "recognizer_breadth"), 8),  # halved three times
    "folds": 2,  # the threshold is fitted on the other folds
    **dict.fromkeys(("face_scale", "adversarial_cap"), 1e-6),  # above 0
}
MOST = {  # the maximum; of other fields a billion, so that they are finite
    **dict.fromkeys(UNBOUNDED, math.inf),
    **dict.fromkeys(("adam_beta1", "adam_beta2"), 0.9999),
    "lr_drop_at": 1,
}
CHOICES = {
    "modifier_upsample": ("transposed", "resize"),
    "recognizer_depth": (4, 10, 20),
    "margin": (1, 2, 3, 4),
    "detector_body": tuple(
        "resnet101_c4 resnet18 resnet34 resnet50 resnet101 mobilenet_v2 toy".split()
    ),
    "precision": ("fp32", "bf16", "fp16"),
    "adversarial_target": ("ascent", "random", "entropy", "non_saturating"),
}


def add_fields(parser: argparse.ArgumentParser) -> None:
    """Give `parser` one `--field` for every field of a preset. Unset ones stay None."""
    group = parser.add_argument_group("fields of the preset (their sources: ppad/config.py)")
    for field in dataclasses.fields(Paper):
        kind = _boolean if isinstance(field.default, bool) else type(field.default)
        value = f"{field.default:.4g}" if kind is float else field.default
        group.add_argument(
            f"--{field.name}",
            type=kind,
            metavar=kind.__name__.strip("_").upper(),
            help=f"{field.metadata['help']} (paper: {value})".replace("%", "%%"),
        )


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"'{text}' is neither true nor false")
    return text.lower() == "true"


def build(preset: str, **overrides) -> Paper:
    """The preset `preset` with `overrides` (None = keep the preset's), checked.

    Raises ConfigError for an unknown preset or field, or an invalid value.
    """
    if preset not in PRESETS:
        raise ConfigError(f"preset '{preset}' is unknown: choose one of {', '.join(PRESETS)}")
    for name in overrides.keys() - Paper.__annotations__.keys():
        raise ConfigError(f"field '{name}' is unknown: the fields are listed in ppad/config.py")
    given = {name: value for name, value in overrides.items() if value is not None}
    config = replace(PRESETS[preset], **given)
    for name, fault in _problems(config):
        raise ConfigError(f"{name} is {getattr(config, name)!r}: {fault}")
    return config


def from_flags(preset: str, flags: dict) -> Paper:
    """The preset with the fields from the command line (None = not given).

    Raises ConfigError like `build`, for a game without steps, and for folders of pictures if the
    preset draws its data.
    """
    config = build(preset, **flags)
    if not (config.T1 or config.epochs or config.T2):
        raise ConfigError("T1, epochs and T2 are 0, so the game trains nothing: give one of them")
    for name in ("faces", "actions"):
        if config.drawn and flags.get(name) is not None:
            fix = "give --preset photo_cpu, or another preset that reads folders, or --drawn false"
            raise ConfigError(f"{name} is given, but preset '{preset}' draws its data: {fix}")
    return config


def _problems(config: Paper):
    """Yield (field, what is wrong) for every invalid value."""
    values = dataclasses.asdict(config)
    least = LEAST | dict.fromkeys(DRAWN if config.drawn else (), 1)
    for name, value in values.items():
        if value not in CHOICES.get(name, [value]):
            yield name, f"it must be {' or '.join(map(repr, CHOICES[name]))}"
        elif isinstance(value, (int, float)):
            low = least.get(name, 0)
            high = MOST.get(name, 10**9)
            if not value >= low:  # also if it is NaN
                yield name, f"it must be at least {low:,}"
            if value > high:
                yield name, f"it must be at most {high:,}"
    for name in ACCUMULATED:
        if values[name] % config.accumulate:
            yield "accumulate", f"it must divide {name}, which is {values[name]}"
    if config.face_size % 8:
        yield "face_size", "M and the landmark reader halve it, so it must be a multiple of 8"
    if config.compile and config.checkpointing:
        yield "checkpointing", "compile itself decides which activations to keep: switch one off"
    if config.drawn:
        yield from _problems_of_drawn_data(config)


def _problems_of_drawn_data(config: Paper):
    same = config.test_identities * math.comb(config.test_pictures_each, 2)  # pairs of one person
    of_each_kind = config.test_pairs // (2 * config.folds) * config.folds
    if of_each_kind == 0:
        yield "test_pairs", f"each of the {config.folds} folds needs a pair of each kind"
    if of_each_kind > same or config.test_identities < 2:
        fix = "give more test_identities or test_pictures_each"
        yield "test_pairs", f"half are of two people, half of one; only {same} of one exist: {fix}"
    if config.face_scale != Paper.face_scale:
        yield "face_scale", "drawn faces fill 1/1.6 of their picture, so it must be 1.6"
    if config.frame_width != config.frame_height:
        yield "frame_width", f"drawn frames are square: give it {config.frame_height}"


def missing_weights(config: Paper) -> dict[str, str]:
    """A sentence for each field whose file of weights does not exist."""
    missing = {}
    for name in ("detector_weights", "recognizer_weights"):
        path = getattr(config, name)
        if path and not Path(path).is_file():
            missing[name] = f"{name} {path} is not there: see data_scripts/README.md"
    return missing


def check_counts(config: Paper, counts: dict) -> None:
    """Raise ConfigError for the first batch that is larger than the training set.

    counts: from `evaluate.count_data` or `evaluate.Data.counts`.
    """
    if counts["train_people"] < 2:
        raise ConfigError("there is one person to train on, and D tells people apart: give more")
    for name in BATCHES:
        size = getattr(config, name)
        kind = "frames" if name == "batch_frames" else "faces"
        count = counts[f"train_{kind}"]
        if size > count:
            fault = f"{name} is {size}, but there are {count} {kind} to train on"
            raise ConfigError(f"{fault}: give more pictures, or a smaller --{name}")


def with_steps(config: Paper, frames: int) -> Paper:
    """The preset with T1 filled in if it is 0: the steps of `epochs` passes through `frames`.

    A pass omits its incomplete last batch, like `datasets.BatchSampler`. The learning rates drop
    after 7 of 12 epochs (Sec. 4), which is `lr_drop_at` of T1.
    """
    steps = config.T1 or config.epochs * (frames // config.batch_frames)
    return replace(config, T1=steps)


def budget(config: Paper) -> dict:
    """The players' updates, equal for all rows, which share one pretrained start."""
    return {
        "A": config.T1 + config.T2,
        "D": config.T1 * config.recognizer_updates,
        "retrained_attacker": config.attack_steps,
        "inverting_attacker": config.invert_steps,
        "before_all_rows": {
            "D": config.pretrain_recognizer_steps,
            "A": config.pretrain_detector_steps,
            "other_architecture": config.attack_steps,
        },
    }


def as_fields(config: Paper) -> dict:
    """Every field, infinity as "inf", since JSON has no number for it."""
    fields = dataclasses.asdict(config)
    return {name: "inf" if value == math.inf else value for name, value in fields.items()}


def as_json(config: Paper, preset: str) -> str:
    """The preset's name and every field, as config.json holds them."""
    return json.dumps({"preset": preset, **as_fields(config)}, indent=1) + "\n"


def differences(config: Paper, preset: str, path: Path) -> list[str]:
    """The fields in which config.json at `path` differs, in the form of `unlike`.

    Raises DataError naming the file if it is missing or damaged.
    """
    there = read_json(path, "restore it, or choose another --out")
    return unlike(deciding(there), {"preset": preset, **deciding(as_fields(config))})


def unlike(there: dict, here: dict) -> list[str]:
    """'NAME: THERE there, HERE here' for every value in which two dicts of settings differ."""
    pairs = {name: (there.get(name), here.get(name)) for name in sorted(there | here)}
    return [f"{name}: {a!r} there, {b!r} here" for name, (a, b) in pairs.items() if a != b]


def deciding(fields: dict) -> dict:
    """The fields that decide a run's numbers: all but MACHINE."""
    kept = {name: value for name, value in fields.items() if name not in MACHINE}
    if kept.get("precision") == "fp32":  # older runs lack it
        del kept["precision"]
    return kept
