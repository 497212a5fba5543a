"""Write a variant of the course, in which last year's solution of a component loses points.

    python tests/grading_variant.py COMPONENT FOLDER

FOLDER gets a copy of `ppad/` and `tests/` in which one constant or convention of the component
differs, in the module, its docstrings and its tests. Hand out the starter from there and grade
there:

    cd FOLDER
    python -m ppad.grade --starter COMPONENT
    python -m ppad.grade COMPONENT ann.py

Anybody who reads this file knows the variant: put your own numbers in `VARIANTS`. Exit status 2,
with a sentence, for an unknown component, a folder that exists, or a text that the module or its
test no longer has.
"""

import argparse
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Component -> what differs, and (old, new) texts in the module and in its test; every occurrence is
# replaced.
VARIANTS = {
    "baselines": (
        "the mask is white",
        [("value: float = -1.0", "value: float = 1.0"), ("one color: black", "one color: white")],
        [
            ("(8, -1.0, 0, 8)", "(8, 1.0, 0, 8)"),
            ("torch.full_like(crops, -1.0)", "torch.full_like(crops, 1.0)"),
            ("black: -1, where", "white: 1, where"),
        ],
    ),
    "crop_sampler": (
        "D takes RGB",
        [
            ("aligned.flip(1) * (127.5 / 128)", "aligned * (127.5 / 128)"),
            ("1 to D's BGR (x - 127.5)/128", "1 to D's RGB (x - 127.5)/128"),
            ("SphereFace's public model files, which take BGR.", "for a variant of the course."),
        ],
        [
            (
                "[(0 - 127.5) / 128, (100 - 127.5) / 128, (255 - 127.5) / 128]",
                "[(255 - 127.5) / 128, (100 - 127.5) / 128, (0 - 127.5) / 128]",
            ),
            ("D's input is BGR", "D's input is RGB"),
            ("SphereFace takes blue first", "D takes red first"),
        ],
    ),
    "detector": (
        "the short side is 300 px",
        [("340", "300")],
        [
            ("(340, 453)", "(300, 400)"),
            ("become 340 and 800", "become 300 and 800"),
            (", 340, 10)", ", 300, 10)"),
        ],
    ),
    "losses": (
        "lambda falls with gamma = 0.1",
        [
            ("gamma: float = 0.12", "gamma: float = 0.1"),
            ('"gamma": 0.12', '"gamma": 0.1'),
            ("t = 1,659", "t = 1,990"),
        ],
        [
            ("1000 / 13", "1000 / 11"),
            ("lambda_schedule(1658) > 5", "lambda_schedule(1989) > 5"),
            ("lambda_schedule(1659) == 5", "lambda_schedule(1991) == 5"),
        ],
    ),
    "metrics": (
        "an IoU of exactly the threshold is no hit",
        [
            ("iou[i, best] >= threshold", "iou[i, best] > threshold"),
            ("has IoU >= `iou_threshold`", "has IoU > `iou_threshold`"),
        ],
        [
            ("[(5.0, 1.0), (4.99, 0.0)]", "[(5.01, 1.0), (5.0, 0.0)]"),
            ("IoU of exactly the threshold counts (>=, not >)", "IoU must be above (>, not >=)"),
        ],
    ),
    "modifier": (
        "weights start with a deviation of 0.03",
        [("INIT_STD = 0.02", "INIT_STD = 0.03")],
        [("0.02", "0.03")],
    ),
    "sphereface": (
        "every PReLU starts with a slope of 0.2",
        [("PRELU_INIT = 0.25", "PRELU_INIT = 0.2")],
        [("eq(0.25)", "eq(0.2)"), ("slopes 0.25", "slopes 0.2")],
    ),
    "trainer": (
        "the learning rates drop to a fifth",
        [("factor = 0.1 if", "factor = 0.2 if"), ("x0.1 once", "x0.2 once")],
        [
            ("factor = 1 if epoch <= 7 else 0.1", "factor = 1 if epoch <= 7 else 0.2"),
            ("(1, 1, 0.1, 0.1)", "(1, 1, 0.2, 0.2)"),
            ("(1, 0.1)", "(1, 0.2)"),
            ("the rate is a tenth", "the rate is a fifth"),
        ],
    ),
}


def changed(source: str, replacements, name: str) -> str:
    """The source with every old text replaced by new. ValueError if an old text is missing."""
    for old, new in replacements:
        if old not in source:
            raise ValueError(f"{name} has no {old!r} any more: adapt VARIANTS in {__file__}")
        source = source.replace(old, new)
    return source


def write_variant(component: str, folder: Path) -> str:
    """Write the variant of a component into a new folder. Returns what differs in it."""
    if component not in VARIANTS:
        raise ValueError(f"{component!r} has no variant: choose one of {', '.join(VARIANTS)}")
    what, *texts = VARIANTS[component]
    names = (f"ppad/{component}.py", f"tests/test_{component}.py")
    sources = [
        changed((ROOT / name).read_text(encoding="utf-8"), replacements, name)
        for name, replacements in zip(names, texts)
    ]
    folder.mkdir(parents=True)
    for name in ("ppad", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name, source in zip(names, sources):
        (folder / name).write_text(source, encoding="utf-8")
    return what


def parse(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("component", choices=list(VARIANTS), help="whose solution loses points")
    parser.add_argument("folder", type=Path, help="where the copy goes; it must not exist")
    return parser.parse_args(words)


if __name__ == "__main__":
    args = parse()
    try:
        print(f"{args.folder}: {write_variant(args.component, args.folder)}")
    except (ValueError, OSError) as error:
        print(f"grading_variant.py: error: {error}", file=sys.stderr)
        sys.exit(2)
