"""What every lesson needs and none should copy: the environment, kept results and players, pictures, checks, sliders.

Lessons import it as `import lesson`; it stands beside them, so no installation is needed.
"""

import json
import os
import platform
import sys
import types
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(
    0, str(HERE.parent)
)  # a lesson runs from a fresh clone, wherever Jupyter was started

import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

from ppad import config as presets  # noqa: E402
from ppad import evaluate, trainer  # noqa: E402
from ppad.attacks import PlainRecognizer  # noqa: E402

PACKAGES = ("torch", "torchvision", "numpy", "pillow", "matplotlib", "jupyter", "pytest")


def environment() -> None:
    """Print what a bug report must include: versions, cores, GPU, kept results."""
    print(
        f"Python {platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} cores, "
        f"GPU: {torch.cuda.get_device_name() if torch.cuda.is_available() else 'none (not needed)'}"
    )
    for name in PACKAGES:
        try:
            print(f"  {name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            print(f"  {name} is missing: pip install -r requirements.txt")
    kept = sorted(path.parent.name for path in (HERE / "results").glob("*/results.json"))
    print(f"  kept runs: {', '.join(kept)}")


def start(seed: int = 0) -> None:
    """The first line of every lesson: one seed for everything, and figures of one size."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    plt.rcParams.update(
        {
            "figure.dpi": 80,
            "figure.constrained_layout.use": True,
            "axes.grid": False,
            "font.size": 9,
        }
    )


# ------------------------------------------------------------------ what a long run has left


def results(preset: str = "toy") -> dict:
    """results.json of the kept run. FileNotFoundError says how to make one."""
    path = HERE / "results" / preset / "results.json"
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is not there: run python -m ppad.reproduce --preset {preset} --out {path.parent}"
        )
    return json.loads(path.read_text())


def row(name: str, preset: str = "toy") -> dict:
    """One row of the kept run's results, by the name that Table 1 prints."""
    return next(one for one in results(preset)["rows"] if one["name"] == name)


def players(preset: str = "toy") -> types.SimpleNamespace:
    """The kept run's networks, in eval mode: `modifier`, `recognizer` and `detector` after Ours' game,
    `recognizer_start` and `detector_start` before it, the judges `other` and `reader`, and `config`.
    """
    held = torch.load(HERE / "results" / preset / "players.pt", weights_only=True)
    held["config"].pop("preset", None)
    config = presets.Paper(**held["config"])
    people = held["parts"]["recognizer"]["head.weight"].shape[0]
    made = {
        "modifier": trainer.make_modifier(config),
        "reader": evaluate.LandmarkReader(config.face_size),
        "other": PlainRecognizer(config.other_width, config.embedding, people),
    }
    made |= {
        name: trainer.make_recognizer(config, people) for name in ("recognizer", "recognizer_start")
    }
    made |= {name: trainer.make_detector(config, 10) for name in ("detector", "detector_start")}
    for name, network in made.items():
        network.load_state_dict(held["parts"][name])  # kept in half precision, used in single
        network.eval().requires_grad_(False)
    return types.SimpleNamespace(config=config, **made)


# ------------------------------------------------------------------ pictures


def show(pictures, titles=None, columns: int = 8, size: float = 1.3) -> None:
    """Draw pictures (B, 3, H, W) in [-1, 1] (or a list of (3, H, W)) side by side."""
    pictures = list(pictures)
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    _, axes = plt.subplots(
        rows, columns, figsize=(columns * size, rows * size * (1.2 if titles else 1)), squeeze=False
    )
    for axis in axes.flat:
        axis.axis("off")
    for number, picture in enumerate(pictures):
        axis = axes.flat[number]
        axis.imshow((picture.detach().cpu().permute(1, 2, 0) / 2 + 0.5).clamp(0, 1).numpy())
        if titles:
            axis.set_title(titles[number], fontsize=8)
    plt.show()


def slider(draw, **choices) -> None:
    """A slider for each keyword (a list of values) that calls `draw(**chosen)`.

    Drawn once with the middle values first, so a page without a live kernel (GitHub, a printout) still shows a picture.
    """
    middle = {name: values[len(values) // 2] for name, values in choices.items()}
    draw(**middle)
    if os.environ.get("PPAD_STATIC"):  # set where notebooks are only executed, never touched
        return
    import ipywidgets

    ipywidgets.interact(
        draw,
        **{
            name: ipywidgets.SelectionSlider(options=values, value=middle[name])
            for name, values in choices.items()
        },
    )


# ------------------------------------------------------------------ checks of exercises


class Wrong(AssertionError):
    """An answer that is not right yet; in a notebook it shows as its message alone, without a traceback."""

    def _render_traceback_(self):
        return [f"\x1b[31mNot yet:\x1b[0m {self}"]


def expect(condition: bool, message: str) -> None:
    """Raise Wrong(message) unless `condition` holds."""
    if not condition:
        raise Wrong(message)


def expect_close(what: str, got, wanted, hint: str = "", tolerance: float = 1e-4) -> None:
    """Raise Wrong unless `got` equals `wanted` (tensors, arrays, numbers) within `tolerance`.

    The message names type, shapes, or the first value that differs, then the hint.
    """
    hint = f" {hint}" if hint else ""
    if got is None:
        raise Wrong(f"{what} is None: does your function return its result?{hint}")
    try:
        got = torch.as_tensor(got).detach().double()
    except (TypeError, ValueError, RuntimeError) as error:
        raise Wrong(
            f"{what} is a {type(got).__name__}, where a tensor or a number was expected.{hint}"
        ) from error
    wanted = torch.as_tensor(wanted).detach().double()
    if got.shape != wanted.shape:
        raise Wrong(f"{what} has shape {tuple(got.shape)}, expected {tuple(wanted.shape)}.{hint}")
    differs = ~torch.isclose(got, wanted, rtol=tolerance, atol=tolerance, equal_nan=True)
    if differs.any():
        place = tuple(differs.nonzero()[0].tolist())
        where = f" at {list(place)}" if place else ""
        raise Wrong(
            f"{what}{where} is {got[place].item():.6g}, expected {wanted[place].item():.6g} "
            f"({int(differs.sum())} of {differs.numel()} values differ).{hint}"
        )


def call(name: str, function, *inputs, **settings):
    """The student's answer, or Wrong where there is an exception or none; inputs must come back as they went in."""
    before = [
        x.clone() if torch.is_tensor(x) else np.copy(x) if isinstance(x, np.ndarray) else x
        for x in inputs
    ]
    try:
        answer = function(*inputs, **settings)
    except Exception as error:
        shapes = ", ".join(str(tuple(x.shape)) if hasattr(x, "shape") else repr(x) for x in inputs)
        raise Wrong(
            f"{name} stopped with {type(error).__name__}: {error} (it was called with {shapes})"
        ) from error
    for old, new in zip(before, inputs):
        if hasattr(old, "shape"):
            expect(
                bool((old == new).all()),
                f"{name} has changed its input in place; work on a copy (clone, scatter).",
            )
    expect(answer is not None, f"{name} returned None: does it end with return?")
    return answer


def agrees(got, values) -> bool:
    """Does the answer equal these values (a known mistake's, to name it)?"""
    try:
        got, values = torch.as_tensor(got).double(), torch.as_tensor(values).double()
    except (TypeError, ValueError, RuntimeError):
        return False
    return got.shape == values.shape and torch.allclose(got, values, rtol=1e-4, atol=1e-4)


def well_done(message: str) -> None:
    """The last line of a check that passed."""
    print(f"\x1b[32mRight.\x1b[0m {message}")
