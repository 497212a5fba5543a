"""What all lessons share: environment, stored results and networks, pictures, sliders, checks.

Lessons `import lesson`. The file is in their folder, so that nothing has to be installed.
"""

import dataclasses
import json
import os
import platform
import sys
import types
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # finds `ppad`, wherever Jupyter was started

import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from matplotlib_inline import backend_inline  # noqa: E402

from ppad import config as presets  # noqa: E402
from ppad import players as networks  # noqa: E402
from ppad.attackers import PlainRecognizer  # noqa: E402
from ppad.baselines import BASELINES  # noqa: E402
from ppad.loop import read_checkpoint  # noqa: E402
from ppad.players import LandmarkReader  # noqa: E402

PACKAGES = ("torch", "torchvision", "numpy", "pillow", "matplotlib", "jupyter", "pytest")


def environment() -> None:
    """Print what a bug report should include: versions, cores, GPU, stored results."""
    system = f"{platform.system()} {platform.machine()}"
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none (not needed)"
    print(f"Python {platform.python_version()} on {system}, {os.cpu_count()} cores, GPU: {gpu}")
    for name in PACKAGES:
        try:
            print(f"  {name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            print(f"  {name} is missing: pip install -r requirements.txt")
    stored = sorted(path.parent.name for path in (HERE / "results").glob("*/results.json"))
    print(f"  stored results: {', '.join(stored)}")


def start(seed: int = 0) -> None:
    """Set the random seeds and matplotlib's defaults; every lesson begins with it."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    # Figures as JPEG, which keeps a notebook small: most of them are pictures.
    backend_inline.set_matplotlib_formats("jpeg", pil_kwargs={"quality": 75})
    plt.rcParams.update(
        {
            "figure.dpi": 100,  # ten inches fill a page
            "figure.constrained_layout.use": True,
            "axes.grid": False,
            "font.size": 9,
        }
    )


# ------------------------------------------------------------------ the reference run


def results(preset: str = "toy") -> dict:
    """results.json of a preset's stored run. FileNotFoundError gives the command that makes it."""
    path = HERE / "results" / preset / "results.json"
    if not path.exists():
        rows = " ".join(f'"{row}"' for row in (*BASELINES, "Ours", "Ours(ascent)"))
        command = f"python -m ppad.reproduce --preset {preset} --rows {rows} --out {path.parent}"
        raise FileNotFoundError(f"{path} does not exist: run {command}")
    return json.loads(path.read_text(encoding="utf-8"))


def row(name: str, preset: str = "toy") -> dict:
    """One row of the stored results, by its name in Table 1."""
    return next(entry for entry in results(preset)["rows"] if entry["name"] == name)


def players(preset: str = "toy") -> types.SimpleNamespace:
    """The networks of the reference run, in eval mode and without gradients.

    Returns the run's `config`; `modifier`, `recognizer` and `detector` after the game of the row
    Ours; `recognizer_start` and `detector_start` before it; and the evaluators `other` (a
    recognizer of another architecture) and `reader` (of landmarks). `plain_modifier`,
    `plain_recognizer`, `plain_detector` and `plain_config` are those of Ours(ascent), whose M is of
    the paper's kind.
    """
    stored = read_checkpoint(HERE / "results" / preset / "players.pt")
    fields = {name: value for name, value in stored["config"].items() if name != "preset"}
    config = dataclasses.replace(presets.PRESETS[preset], **fields)  # not stored: the preset's
    plain = dataclasses.replace(config, **presets.VARIANTS["Ours(ascent)"])
    people = len(stored["parts"]["recognizer"]["head.weight"])
    parts = {
        "modifier": networks.make_modifier(config),
        "recognizer": networks.make_recognizer(config, people),
        "recognizer_start": networks.make_recognizer(config, people),
        "detector": networks.make_detector(config, 10),
        "detector_start": networks.make_detector(config, 10),
        "other": PlainRecognizer(config.other_width, config.embedding, people),
        "reader": LandmarkReader(config.face_size),
        "plain_modifier": networks.make_modifier(plain),
        "plain_recognizer": networks.make_recognizer(config, people),
        "plain_detector": networks.make_detector(config, 10),
    }
    for name, network in parts.items():
        network.load_state_dict(stored["parts"][name])  # stored in half precision, used in single
        network.eval().requires_grad_(False)
    return types.SimpleNamespace(config=config, plain_config=plain, **parts)


# ------------------------------------------------------------------ pictures


def rgb(picture):
    """A picture (3, H, W) in [-1, 1] as an array (H, W, 3) in [0, 1], as imshow takes it."""
    return (picture.detach().cpu().permute(1, 2, 0) / 2 + 0.5).clamp(0, 1).numpy()


def draw(axis, picture, title: str = "", color: str = "black") -> None:
    """Draw a picture (3, H, W) in [-1, 1]; pixel i covers the interval [i, i + 1)."""
    height, width = picture.shape[1:]
    axis.imshow(rgb(picture), extent=(0, width, height, 0))
    axis.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    axis.set_frame_on(False)
    axis.set_title(title, fontsize=9, color=color)


def outline(axis, box, color: str, style: str = "-", width: float = 1.5) -> None:
    """Draw a box (x1, y1, x2, y2) in pixels."""
    x1, y1, x2, y2 = (float(value) for value in box)
    axis.plot([x1, x2, x2, x1, x1], [y1, y1, y2, y2, y1], style, color=color, linewidth=width)


def heat(axis, values, **settings) -> None:
    """Draw an array (H, W) as a color map, without ticks."""
    axis.imshow(torch.as_tensor(values), **settings)
    axis.set(xticks=[], yticks=[])


def write_values(axis, table, dark_below: float, text: str = "{:.2f}") -> None:
    """Draw a table (rows, columns) as a color map with its values, white on dark cells."""
    axis.imshow(table, cmap="viridis", aspect="auto")
    for row, values in enumerate(table.tolist()):
        for column, value in enumerate(values):
            color = "white" if value < dark_below else "black"
            axis.text(
                column, row, text.format(value), ha="center", va="center", fontsize=9, color=color
            )


def show(pictures, titles=None, columns: int = 8, size: float = 1.25) -> None:
    """Draw pictures (B, 3, H, W) in [-1, 1] (or a list of (3, H, W)) side by side."""
    pictures = list(pictures)
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    tallest = max(picture.shape[1] / picture.shape[2] for picture in pictures)
    height = rows * size * tallest * (1.2 if titles else 1)
    _, axes = plt.subplots(rows, columns, figsize=(columns * size, height), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for number, picture in enumerate(pictures):
        draw(axes.flat[number], picture)
        if titles:
            axes.flat[number].set_title(titles[number], fontsize=8)
    plt.show()


def strips(axis, rows, names) -> None:
    """Draw rows of pictures, a list of (B, 3, S, S), as one picture with a name beside each row."""
    tiled = torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)  # (3, rows S, B S)
    side = rows[0].shape[-1]
    axis.imshow(rgb(tiled), interpolation="antialiased")
    axis.set(xticks=[], yticks=[(number + 0.5) * side for number in range(len(rows))])
    axis.set_yticklabels(names, fontsize=8)
    axis.tick_params(length=0)


def columns(rows, heads, width: int = 11, first: int = 16, digits: int = 1) -> None:
    """Print a table. rows: {name: [numbers or texts]}; heads: the columns' titles."""
    print(" " * first + "".join(f"{head:>{width}}" for head in heads))
    for name, values in rows.items():
        texts = [x if isinstance(x, str) else f"{x:.{digits}f}" for x in values]
        print(f"{name:{first}}" + "".join(f"{text:>{width}}" for text in texts))


def table(lines, width: int = 54) -> None:
    """Print pairs of a text and a value, one pair per line."""
    for text, value in lines:
        print(f"{text:{width}}{value}")


def slider(draw, start, **choices) -> None:
    """Show a slider for each keyword (a list of values); they call `draw(**values)`.

    `start`: the initial value, or a tuple of one per slider. Without a user (PPAD_STATIC: for
    GitHub, a printout, a test) it is drawn as a plain figure, without sliders.
    """
    values = start if isinstance(start, tuple) else (start,)
    first = dict(zip(choices, values, strict=True))
    if os.environ.get("PPAD_STATIC"):
        draw(**first)
        return
    import ipywidgets

    wide = {"description_width": "initial"}  # no label is cut off
    sliders = {
        name: ipywidgets.SelectionSlider(
            options=options,
            value=first[name],
            description=name.replace("_", " "),
            style=wide,
            continuous_update=False,
        )
        for name, options in choices.items()
    }
    ipywidgets.interact(draw, **sliders)


# ------------------------------------------------------------------ checks of exercises


class Wrong(AssertionError):
    """An answer that is not right yet; a notebook shows only its message, without a traceback."""

    def _render_traceback_(self):
        return [f"\x1b[31mNot yet:\x1b[0m {self}"]


def expect(condition: bool, message: str) -> None:
    """Raise Wrong(message) unless `condition` holds."""
    if not condition:
        raise Wrong(message)


def expect_close(what: str, got, wanted, hint: str = "", tolerance: float = 1e-4) -> None:
    """Raise Wrong unless `got` equals `wanted` (tensors, arrays, numbers) within `tolerance`.

    The message gives the type, the shapes, or the first value that differs, then the hint. A list
    is refused where a tensor or array is wanted: the next cells need the right type.
    """
    hint = f" {hint}" if hint else ""
    if got is None:
        raise Wrong(f"{what} is None: does your function return its result?{hint}")
    kind = type(got).__name__
    right_kind = type(wanted)
    is_right = right_kind not in (torch.Tensor, np.ndarray) or isinstance(got, right_kind)
    try:
        if isinstance(got, (list, tuple)):
            got = np.array(got)  # torch warns about lists of arrays
        got = torch.as_tensor(got).detach().double()
    except (TypeError, ValueError, RuntimeError) as error:
        raise Wrong(
            f"{what} is a {kind}, where a tensor or a number was expected.{hint}"
        ) from error
    wanted = torch.as_tensor(wanted).detach().double()
    if got.shape != wanted.shape:
        raise Wrong(f"{what} has shape {tuple(got.shape)}, expected {tuple(wanted.shape)}.{hint}")
    if wanted.ndim and not is_right:
        raise Wrong(f"{what} is a {kind}, expected a {right_kind.__name__}.{hint}")
    differs = ~torch.isclose(got, wanted, rtol=tolerance, atol=tolerance, equal_nan=True)
    if differs.any():
        place = tuple(differs.nonzero()[0].tolist())
        where = f" at {list(place)}" if place else ""
        raise Wrong(
            f"{what}{where} is {got[place].item():.6g}, expected {wanted[place].item():.6g} "
            f"({int(differs.sum())} of {differs.numel()} values differ).{hint}"
        )


def expect_not(what: str, got, wanted, mistakes) -> None:
    """Raise Wrong with an explanation if `got` is the result of a known mistake.

    Args: mistakes: list of (result of the mistake, explanation).
    """
    for values, explanation in mistakes:
        if agrees(got, values) and not agrees(values, wanted):
            right = torch.as_tensor(wanted).double().round(decimals=3).tolist()
            yours = torch.as_tensor(got).detach().double().round(decimals=3).tolist()
            raise Wrong(f"{what}: {explanation} Expected {right}, yours is {yours}.")


def agrees(got, values) -> bool:
    """Whether an answer equals these values (tensors, arrays, lists, numbers)."""
    try:
        if isinstance(got, (list, tuple)):
            got = np.array(got)  # torch warns about lists of arrays
        got = torch.as_tensor(got).detach().double()
        values = torch.as_tensor(values).detach().double()
    except (TypeError, ValueError, RuntimeError):
        return False
    return got.shape == values.shape and torch.allclose(got, values, rtol=1e-4, atol=1e-4)


def call(name: str, function, *inputs):
    """Call a student's function and return its answer.

    Raises Wrong if it raises an exception, returns None, or changes its inputs in place.
    """
    before = [_copy(value) for value in inputs]
    try:
        answer = function(*inputs)
    except (Exception, SystemExit) as error:
        given = ", ".join(str(tuple(x.shape)) if hasattr(x, "shape") else repr(x) for x in inputs)
        what = f"{type(error).__name__}: {error}".removesuffix(": ")
        raise Wrong(f"{name} stopped with {what} (it was called with {given})") from error
    for old, new in zip(before, inputs):
        if hasattr(old, "shape"):
            unchanged = bool((old == new).all())
            expect(
                unchanged,
                f"{name} has changed its input in place; work on a copy (clone, scatter).",
            )
    expect(answer is not None, f"{name} returned None: does your function return its result?")
    return answer


def _copy(value):
    if torch.is_tensor(value):
        return value.clone()
    return np.copy(value) if isinstance(value, np.ndarray) else value


def well_done(message: str) -> None:
    """Print the last line of a passed check."""
    print(f"\x1b[32mRight.\x1b[0m {message}")


def exercise(check, ours):
    """Make the function that a check cell calls: `psi = check.psi(psi)`.

    It returns the student's function if that is right, else ours, so a lesson runs from top to
    bottom with nothing filled in. "Right." is printed only for a function that was written in the
    notebook and has just been tested. If the student's cell ended with an error, the name still
    holds ours or the function of an earlier run; the check then says so.

    Args: check: raises Wrong, or prints `well_done`. ours: the function to continue with.
    """
    name = check.__name__.removeprefix("check_")
    passed = None

    def checked(answer):
        nonlocal passed
        if _was_imported(answer) or answer is ours:
            _unfinished(f"{name} is ours here, not yours. If you have written it: did its cell end")
            print("with an error, or has your function another name? Going on with ours.")
            return ours
        if answer is passed:
            _unfinished(f"{name} is the function that was right before.")
            print("If you have changed it since, its cell ended with an error.")
            return passed
        try:
            check(answer)
        except (Wrong, NotImplementedError) as fault:
            if NotImplementedError in (type(fault), type(fault.__cause__)):
                _unfinished(f"{name} is not written yet, going on with ours.")
            else:
                print(f"\x1b[31mNot yet:\x1b[0m {fault}\nGoing on with ours.")
            return ours
        except (Exception, SystemExit) as fault:  # the check did not expect this answer
            what = f"{type(fault).__name__}: {fault}".removesuffix(": ")
            print(f"\x1b[31mNot yet:\x1b[0m what {name} returned cannot be checked ({what}).")
            print("Is it of the type and shape that the exercise asks for? Going on with ours.")
            return ours
        passed = answer
        return answer

    return checked


def _was_imported(answer) -> bool:
    """Whether an answer comes from one of our modules or a library, not from the notebook."""
    home = (getattr(answer, "__module__", None) or "").split(".")[0]
    return home in ("checks", "ppad", "torch", "torchvision", "numpy", "lesson")


def _unfinished(message: str) -> None:
    print(f"\x1b[33mNot checked.\x1b[0m {message}")
