"""Presets: every number of a run in one place, each with where it comes from.

A preset is a dataclass. `Paper` holds every field, at the paper's value where the paper gives one
(Sec. 3-5); `Photo` and `Toy` override what a smaller world needs. Any field can be set on the command
line of `ppad.reproduce` as `--field value`; a field that does not exist is an error.

The comment behind a field names its source: a section of the paper, a component's original source
(`SphereFace`: the authors' training file), or `ours` with the reason.
"""

import argparse
import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path


class ConfigError(ValueError):
    """A setting that cannot work; the message names the field and the mend."""


@dataclass
class Paper:
    """Full size: CASIA-WebFace for F, DALY or JHMDB for V, LFW for the test pairs (Sec. 5.1)."""

    # ---- data
    faces: str = "data/casia"  # Sec. 5.1: prepared folder of F (train/ and test/ inside)
    actions: str = "data/daly"  # Sec. 5.1: prepared folder of V
    drawn: bool = False  # ours: True draws the toy world instead of reading folders
    train_identities: int = 0  # ours: people read for training; 0 = all of them
    pictures_each: int = 0  # ours: pictures of each person at most; 0 = all of them
    test_identities: int = 0  # ours: people the test pairs are drawn from (toy world only)
    test_pictures_each: int = 0  # ours: likewise
    train_frames: int = 0  # ours: action frames read for training; 0 = all of them
    test_frames: int = 0  # ours: action frames read for the test; 0 = all of them
    test_pairs: int = 0  # ours: pairs drawn (toy world); 0 = all of the pairs file
    frame_height: int = 600  # Sec. 4: 600x800 for DALY
    frame_width: int = 800  # Sec. 4
    # ---- M, the face modifier
    face_size: int = 256  # Sec. 4: faces are resampled to 256x256
    modifier_width: int = 64  # Sec. 4, after Johnson et al. and CycleGAN: c7s1-64
    modifier_blocks: int = 9  # Sec. 4: the 9 residual blocks network
    modifier_upsample: str = "transposed"  # Sec. 4, after CycleGAN; small presets: "resize"
    modifier_light: bool = (
        False  # Sec. 4 has none; small presets: True (see modifier.ModifierConfig)
    )
    # ---- D, the recogniser
    recognizer_depth: int = 20  # Sec. 4: SphereFace-20
    recognizer_width: int = 64  # SphereFace: first stage's channels
    embedding: int = 512  # SphereFace: fc5
    recognizer_height: int = 112  # SphereFace: aligned crop 112x96
    recognizer_breadth: int = 96  # SphereFace
    other_width: int = 64  # ours: first width of the other-architecture attacker
    margin: int = 4  # SphereFace: m
    lambda_base: float = 1000.0  # SphereFace: lambda(t) = max(floor, base / (1 + gamma t))
    lambda_gamma: float = 0.12  # SphereFace
    lambda_floor: float = 5.0  # SphereFace
    recognizer_scale: float = (
        0.0  # SphereFace: 0 = the feature's own norm (see losses.ASoftmaxLoss)
    )
    # ---- A, the action detector
    detector_body: str = "resnet101"  # Sec. 4: Faster R-CNN on ResNet-101
    detector_weights: str = ""  # ours: ImageNet file of torchvision for the body; "" = from scratch
    detector_trainable: int = (
        3  # ours: torchvision's default; stages of a body with weights that learn
    )
    # ---- before the game
    pretrain_recognizer_steps: int = 28000  # SphereFace: 28k iterations
    pretrain_recognizer_batch: int = 256  # SphereFace: 256 to 512
    pretrain_modifier_steps: int = 0  # ours: L1-only steps that teach M to copy before it must hide
    practice_steps: int = 0  # ours: M against a copy of D that is thrown away, before the game
    practice_faces: int = 16  # ours: faces a step while M copies and practises
    lr_practice: float = 3e-4  # ours: M's rate meanwhile, here the game's; dropped as the game's is
    pretrain_detector_steps: int = 12000  # ours: the paper does not say how A is started
    landmark_jitter: float = 0.0  # ours: px at 112x96, alignment noise while training recognisers
    colour_jitter: float = 0.0  # ours: brightness and contrast noise while training recognisers
    # ---- the game, Algorithm 1
    T1: int = 60000  # ours: 12 epochs of about 5,000 steps (Sec. 4 gives epochs only)
    T2: int = 10000  # ours: the paper gives no number
    lr_detector: float = 1e-3  # Sec. 4
    lr_modifier: float = 3e-4  # Sec. 4
    lr_recognizer: float = 3e-4  # Sec. 4
    adam_beta1: float = 0.5  # Sec. 4
    adam_beta2: float = 0.999  # Sec. 4
    lr_drop_at: float = 7 / 12  # Sec. 4: x0.1 after the seventh of twelve epochs
    batch_faces: int = 16  # ours: the paper gives no batch size
    batch_frames: int = 2  # ours: likewise
    recognizer_updates: int = 1  # Algorithm 1, line 3: one update of D a step
    adversarial_weight: float = 1.0  # eq. 4: no weight
    l1_weight: float = 5.0  # eq. 3: "relatively small"; the value is ours
    detection_weight: float = 1.0  # eq. 4: no weight
    adversarial_cap: float = (
        1.0  # ours: cap on L_D in M's term, in units of log N (see ppad.losses)
    )
    adversarial_target: str = (
        "ascent"  # Sec. 5.6: "ascent" (the paper's) or "random" (its ablation)
    )
    # ---- the judges
    attack_steps: int = 28000  # ours: as long as D's own pretraining
    landmark_steps: int = 5000  # ours: until the landmark reader stops improving
    folds: int = 10  # LFW protocol
    # ---- the machine
    device: str = "auto"  # ours: cuda if there is one, else cpu
    precision: str = (
        "fp32"  # ours: "bf16" or "fp16" on a GPU (see ppad.speed, also for the next five)
    )
    channels_last: bool = False  # ours: True on a GPU
    compile: bool = False  # ours: True pays in a run of hours
    fused: bool = False  # ours: True on a GPU
    accumulate: int = 1  # ours: more where memory is short; must divide the game's batches
    checkpointing: bool = False  # ours: True where memory is short
    memory_gb: float = (
        8.0  # ours: GiB for pictures, a process; sets that do not fit are decoded by batches
    )
    workers: int = 0  # ours: threads that decode pictures; 0 = one a core, 16 at most
    eval_batch: int = 32  # ours: pictures at a time where nothing is learnt
    log_every: int = 20  # ours: steps between log lines
    sample_every: int = 1000  # ours: steps between the held-out pictures
    checkpoint_seconds: int = 120  # ours: at most two minutes are ever lost


@dataclass
class Photo(Paper):
    """Real photographs on one GPU, three seeds meant for an hour (no GPU has measured it yet); photo_cpu is smaller."""

    faces: str = (
        "data/photo_pack/faces"  # ours: person/picture folders (train/, test/) with landmarks.csv
    )
    actions: str = "data/photo_pack/actions"  # ours: stills with annotations.csv and faces.csv
    frame_height: int = 320  # ours: the stills' longest side
    frame_width: int = 320  # ours
    face_size: int = 128  # ours: the crops are 160x160
    modifier_upsample: str = "resize"  # ours: no checkerboard after a short training
    modifier_light: bool = True  # ours: the picture's own light after a short training
    modifier_width: int = 32  # ours: minutes, not days
    modifier_blocks: int = 6  # ours: CycleGAN's choice at 128x128
    recognizer_depth: int = 10  # ours: 254 people do not fill SphereFace-20
    recognizer_width: int = 32  # ours
    embedding: int = 256  # ours
    recognizer_scale: float = (
        16.0  # ours: a free norm shrinks to nothing when M wins (losses.ASoftmaxLoss)
    )
    other_width: int = 32  # ours
    lambda_gamma: float = 0.12  # SphereFace
    detector_body: str = (
        "mobilenet_v2"  # ours: wants --detector_weights: 1,000 stills alone teach no body to see
    )
    pretrain_recognizer_steps: int = (
        3000  # ours: 70 times through the pack; at the CPU size 30 were enough
    )
    pretrain_recognizer_batch: int = 128  # ours
    detector_trainable: int = 4  # ours: as photo_cpu, where it was tried
    lr_detector: float = 2e-4  # ours: likewise; at 1e-3 the body forgot ImageNet
    pretrain_modifier_steps: int = 500  # ours: as toy
    practice_steps: int = 6400  # ours: twice toy's, for a picture of four times the pixels
    practice_faces: int = 8  # ours: as toy
    lr_practice: float = 1e-3  # ours: as toy
    lr_modifier: float = 5e-4  # ours: as toy
    lr_recognizer: float = 5e-4  # ours: as toy
    adversarial_weight: float = (
        0.15  # ours: as toy; at 0.25 M paints bright spots and hides hardly more
    )
    detection_weight: float = 2.0  # ours: as toy
    pretrain_detector_steps: int = 1500  # ours: 12 times through the stills
    landmark_jitter: float = 1.5  # ours: 254 people overfit without it
    colour_jitter: float = 0.2  # ours
    T1: int = 800  # ours: M and D have practised; eleven rows wait for it, three seeds each
    T2: int = 160  # ours
    batch_faces: int = 32  # ours
    batch_frames: int = 8  # ours
    recognizer_updates: int = 2  # ours: D must keep up for the figure to mean anything
    attack_steps: int = (
        1000  # ours: the attacker starts from the pretrained D; the other judge from nothing
    )
    landmark_steps: int = 1000  # ours
    folds: int = 2  # the pack holds LFW folds 9 and 10
    sample_every: int = 250  # ours


@dataclass
class PhotoCPU(Photo):
    """`photo` at a size that two CPU cores end within two hours: the same pictures, smaller, with short trainings."""

    frame_height: int = 256  # ours: ImageNet features told 63 % of actions at 224, 70 % at 320
    frame_width: int = 256  # ours
    face_size: int = 64  # ours
    modifier_width: int = 16  # ours: as toy
    modifier_blocks: int = 3  # ours: as toy
    recognizer_height: int = 56  # ours: half of 112x96, as the faces are
    recognizer_breadth: int = 48  # ours
    recognizer_width: int = 24  # ours
    embedding: int = 192  # ours
    other_width: int = 16  # ours
    lambda_gamma: float = 0.3  # ours: reaches the floor at step 663 of 2,500
    pretrain_recognizer_steps: int = 2500  # ours: D still learnt after 1,500
    pretrain_recognizer_batch: int = 64  # ours
    practice_steps: int = 3200  # ours: as toy
    pretrain_detector_steps: int = 600  # ours
    landmark_jitter: float = 1.0  # ours
    T1: int = 120  # ours
    T2: int = 60  # ours
    batch_faces: int = 16  # ours
    batch_frames: int = 8  # ours
    attack_steps: int = 300  # ours
    landmark_steps: int = 400  # ours
    eval_batch: int = 64  # ours
    sample_every: int = 100  # ours
    checkpoint_seconds: int = 60  # ours


@dataclass
class Toy(Paper):
    """The drawn world on two CPU cores: all rows within half an hour (see ppad.toyworld)."""

    faces: str = ""  # ours: nothing to read
    actions: str = ""  # ours
    drawn: bool = True  # ours
    train_identities: int = 300  # ours: enough that D generalises to new people
    pictures_each: int = 20  # ours
    test_identities: int = 80  # ours: none of them in training
    test_pictures_each: int = 10  # ours
    train_frames: int = 2400  # ours
    test_frames: int = 400  # ours
    test_pairs: int = 2000  # ours: a standard error of about 1 % at 30 % error
    frame_height: int = 160  # ours
    frame_width: int = 160  # ours
    face_size: int = 64  # ours
    modifier_width: int = 16  # ours
    modifier_blocks: int = 3  # ours
    modifier_upsample: str = "resize"  # ours: no checkerboard after a short training
    modifier_light: bool = True  # ours: the picture's own light after a short training
    recognizer_depth: int = 10  # ours
    recognizer_width: int = 16  # ours
    embedding: int = 128  # ours
    recognizer_scale: float = (
        16.0  # ours: a free norm shrinks to nothing when M wins (losses.ASoftmaxLoss)
    )
    recognizer_height: int = 56  # ours: half of 112x96, as the faces are
    recognizer_breadth: int = 48  # ours
    other_width: int = 16  # ours
    lambda_gamma: float = 0.6  # ours: reaches the floor at step 330 instead of 1,660
    detector_body: str = "toy"  # ours
    pretrain_recognizer_steps: int = 500  # ours
    pretrain_recognizer_batch: int = 64  # ours
    pretrain_modifier_steps: int = 500  # ours
    pretrain_detector_steps: int = 700  # ours
    T1: int = 300  # ours
    T2: int = 150  # ours
    batch_faces: int = 16  # ours
    batch_frames: int = 8  # ours
    recognizer_updates: int = 2  # ours: D must keep up for the figure to mean anything
    attack_steps: int = 300  # ours
    landmark_steps: int = 400  # ours
    eval_batch: int = 64  # ours
    sample_every: int = 100  # ours
    checkpoint_seconds: int = 30  # ours
    practice_steps: int = 3200  # ours: about seven minutes on one core
    lr_detector: float = 2e-3  # ours: twice the paper's; a small A from scratch has little time
    practice_faces: int = 8  # ours: M learns more from twice the steps than from twice the faces
    lr_practice: float = (
        1e-3  # ours: three times the paper's; a small M from scratch has little time
    )
    lr_modifier: float = 5e-4  # ours: M only mends in the game what it learnt in its practice
    lr_recognizer: float = 5e-4  # ours: D must follow a quicker M
    adversarial_weight: float = (
        0.15  # ours: at 1, M destroys the whole face before it learns to redraw one
    )
    detection_weight: float = 2.0  # ours: M meets A late, and must mend what its practice lost


MACHINE = (
    "device",
    "log_every",
    "sample_every",
    "checkpoint_seconds",
    "eval_batch",  # fields that change no result
    "channels_last",
    "compile",
    "fused",
    "accumulate",
    "checkpointing",  # but by rounding
    "memory_gb",
    "workers",
)
PRESETS = {"toy": Toy, "photo": Photo, "photo_cpu": PhotoCPU, "paper": Paper}


def add_fields(parser: argparse.ArgumentParser) -> None:
    """Give `parser` one `--field` for every field of a preset. Unset ones stay None."""
    group = parser.add_argument_group("any field of the preset (see ppad/config.py)")
    for field in dataclasses.fields(Paper):
        kind = _truth if field.type in (bool, "bool") else type(field.default)
        group.add_argument(
            f"--{field.name}",
            type=kind,
            default=None,
            metavar=kind.__name__.strip("_").upper(),
            help=argparse.SUPPRESS,
        )


def build(preset: str, **overrides) -> Paper:
    """The preset `preset` with `overrides` (None = leave as it is), checked.

    Raises ConfigError for an unknown preset or field, or a value that cannot work.
    """
    if preset not in PRESETS:
        raise ConfigError(f"preset '{preset}' is unknown: choose one of {', '.join(PRESETS)}")
    known = {field.name for field in dataclasses.fields(Paper)}
    for name in overrides:
        if name not in known:
            raise ConfigError(f"field '{name}' is unknown: the fields are listed in ppad/config.py")
    config = PRESETS[preset](
        **{name: value for name, value in overrides.items() if value is not None}
    )
    check(config)
    return config


def check(config: Paper) -> None:
    """Raise ConfigError naming the first field whose value cannot work."""
    counts = [
        "batch_faces",
        "batch_frames",
        "pretrain_recognizer_batch",
        "face_size",
        "frame_height",
        "frame_width",
        "modifier_width",
        "recognizer_width",
        "embedding",
        "recognizer_updates",
        "folds",
        "eval_batch",
        "log_every",
        "sample_every",
        "other_width",
        "practice_faces",
        "recognizer_height",
        "recognizer_breadth",
        "accumulate",
    ]
    for name in counts:
        if getattr(config, name) < 1:
            raise ConfigError(f"{name} is {getattr(config, name)}: it must be at least 1")
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, (int, float)) and not value >= 0:
            raise ConfigError(f"{field.name} is {value}: it must not be negative")
    if config.face_size % 8:
        raise ConfigError(
            f"face_size is {config.face_size}: super-pixels start on an 8x8 grid and M halves it twice, "
            "so it must be a multiple of 8"
        )
    if config.drawn and config.test_pairs < 2 * config.folds:
        raise ConfigError(
            f"test_pairs is {config.test_pairs}: each of the {config.folds} folds needs a pair of each kind"
        )
    for name in ("batch_faces", "batch_frames", "practice_faces"):
        if getattr(config, name) % config.accumulate:
            raise ConfigError(
                f"accumulate is {config.accumulate}: it must divide {name}, which is {getattr(config, name)}"
            )
    if config.precision not in ("fp32", "bf16", "fp16"):
        raise ConfigError(f"precision is '{config.precision}': it must be 'fp32', 'bf16' or 'fp16'")
    if config.compile and config.checkpointing:
        raise ConfigError(
            "checkpointing is true, and so is compile, which decides itself what to keep: switch one of them off"
        )
    if config.adversarial_target not in ("ascent", "random"):
        raise ConfigError(
            f"adversarial_target is '{config.adversarial_target}': it must be 'ascent' or 'random'"
        )
    if config.folds < 2:
        raise ConfigError(
            "folds is 1: the threshold is fitted on the other folds, so there must be at least 2"
        )


def check_counts(config: Paper, faces: int, frames: int) -> None:
    """Raise ConfigError naming the first batch that asks for more than there is to train on."""
    for what, have, names in (
        ("faces", faces, ("pretrain_recognizer_batch", "batch_faces", "practice_faces")),
        ("frames", frames, ("batch_frames",)),
    ):
        for name in names:
            if getattr(config, name) > have:
                raise ConfigError(
                    f"{name} is {getattr(config, name)}, but there are {have} {what} to train on: give more "
                    f"pictures, or a smaller --{name}"
                )


def as_json(config: Paper, preset: str) -> str:
    """The preset's name and every field, as config.json holds them."""
    return json.dumps({"preset": preset, **dataclasses.asdict(config)}, indent=1) + "\n"


def differences(config: Paper, preset: str, path: Path) -> list[str]:
    """Sentences 'field: there, here' for every field in which config.json at `path` differs from `config`.

    Raises ConfigError naming the file when it is not what `as_json` writes.
    """
    try:
        there = deciding(dict(json.loads(path.read_text())))
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{path} cannot be read ({error}): restore it, or choose another --out"
        ) from error
    here = {"preset": preset, **deciding(dataclasses.asdict(config))}
    return [
        f"{name}: {there.get(name)!r} there, {here.get(name)!r} here"
        for name in sorted(set(there) | set(here))
        if there.get(name) != here.get(name)
    ]


def deciding(fields: dict) -> dict:
    """The fields that decide a run's numbers: not the machine's, and not a plain `precision`, which older runs do not name."""
    return {
        name: value
        for name, value in fields.items()
        if name not in MACHINE and (name, value) != ("precision", "fp32")
    }


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"'{text}' is neither true nor false")
    return text.lower() == "true"
