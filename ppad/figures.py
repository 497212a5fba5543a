"""The paper's figures and tables, drawn from `results.json` and picture tensors (Sec. 5.2-5.6).

    python -m ppad.figures runs/toy runs/photo --out fig4.png      Fig. 4 of several runs

Every function takes plain tensors, dicts or lists and writes one PNG (or returns text), so that
notebooks, runs and tests call the same code. matplotlib is used without pyplot: no figure stays
open and no screen is needed. A number that was not measured is shown as "not run" or "-".

Pictures are RGB float tensors (n, 3, H, W) in [-1, 1] of any n and size; another shape raises
ValueError, an output that cannot be written `files.WriteError`. Errors and APs are given as
fractions and shown in %.
"""

import argparse
import io
import math
import textwrap
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from PIL import Image
from torchvision.utils import make_grid

from ppad.files import read_json, write_file

DPI = 110  # ours: sharp in a README, small on disk
MOST_BYTES = 300_000  # ours: small enough to commit or mail
RED = "#d62728"
GRAY = "#8a8a8a"
# Color and marker of each row. `Ours` and `Ours(...)` are red, as in the paper's Fig. 4.
STYLES = {
    "Ours": (RED, "s"),
    "Un-anonymized": ("#222222", "o"),
    "Blur(8x8)": ("#1f77b4", "o"),
    "Blur(16x16)": ("#1f77b4", "^"),
    "Blur(24x24)": ("#1f77b4", "v"),
    "Noise(0.1)": ("#2ca02c", "o"),
    "Noise(0.3)": ("#2ca02c", "^"),
    "Noise(0.5)": ("#2ca02c", "v"),
    "Masked": ("#222222", "X"),
    "Edge": ("#9467bd", "D"),
    "Super-Pixel": ("#e08214", "P"),
}
OTHERS = "v<>ph*d"  # markers of a user's own rows, all gray
# Key in results.json -> heading.
ERRORS = {
    "own": "error: own D",
    "never_saw": "error: never saw M",
    "other_architecture": "error: other architecture",
    "retrained": "error: retrained",
    "inverting": "error: inverting",
    "strongest": "error: strongest",
}
LOOKS = ("l1", "landmark_error", "outside_gradient", "spread", "mtcnn_found", "mtcnn_landmarks")
ON_SCREEN = ("own", "retrained", "strongest")  # ours: as many as fit into 80 characters


# ------------------------------------------------------------------ pictures


def fig3(columns, path, sides=()):
    """Fig. 3, the modifications side by side: one column per method, one row per face.

    columns: dict, name of the method -> (n, 3, S, S), the same n faces modified by it. sides: row
    labels, at the left.
    """
    rows = torch.stack([_pixels(pictures) for pictures in columns.values()], 1)
    titles = [name.replace(", ", ",\n") for name in columns]  # no wider than a picture
    _save_panels([_grid(list(rows), titles, sides)], path, inches=1.05 * len(columns))


def fig5(before, after, path, frames=None):
    """Fig. 5, pairs of faces before and after modification; below them pairs of action frames.

    before, after: (n, 3, S, S) each. frames: (before, after), (m, 3, H, W) each, or None.
    """
    panels = [_pairs(before, after, columns=4)]
    if frames is not None:
        panels.append(_pairs(*frames, columns=2))
    _save_panels(panels, path, inches=2.1 * min(4, len(before)))


def fig6(groups, path, clips=()):
    """Fig. 6, modified pictures of the same person: one row per person, below them one per clip.

    groups: for each person (n, 3, S, S); n may differ. clips: for each clip its modified frames
    (n, 3, H, W).
    """
    panels = []
    for kind, rows in (("person", groups), ("clip", clips)):
        sides = [f"{kind} {i + 1}" for i in range(len(rows))]
        if rows:
            panels.append(_grid(list(map(_pixels, rows)), sides=sides))
    _save_panels(panels, path, inches=1.05 * max(map(len, groups)))


def contact_sheet(tensor, path, columns):
    """Pictures (n, 3, S, S) as tiles, `columns` per row, smaller if the file exceeds MOST_BYTES."""
    sheet, *_ = _grid(_pixels(tensor).split(columns))
    _write(Image.fromarray(sheet), path)


def _pixels(pictures):
    """(n, 3, H, W) in [-1, 1] -> uint8 on the CPU."""
    if pictures.dim() != 4 or pictures.shape[1] != 3:
        raise ValueError(f"pictures are {tuple(pictures.shape)}: give (n, 3, H, W) in [-1, 1]")
    scaled = (pictures.detach().float().cpu().clamp(-1, 1) + 1) * 127.5
    return scaled.round().byte()


def _grid(rows, heads=(), sides=(), gap=0.05):
    """A panel of pictures: rows of (n, 3, H, W) uint8, n may differ, `gap` * H apart.

    heads: one or more labels per column. sides: one label per row. A panel is a sheet (h, w, 3),
    the heads (x, text) above it, and the sides (y, text) at its left.
    """
    columns = max(map(len, rows))
    # White pictures fill shorter rows.
    rows = [F.pad(row, (0, 0, 0, 0, 0, 0, 0, columns - len(row)), value=255) for row in rows]
    tiles = torch.cat(rows)  # (rows * columns, 3, H, W)
    high, wide = tiles.shape[2:]
    gap = round(high * gap) + 1  # px
    sheet = make_grid(tiles, nrow=columns, padding=gap, pad_value=255)
    if len(tiles) > 1:  # make_grid gives a single tile no border
        sheet = sheet[:, gap:-gap, gap:-gap]
    each = len(heads) // columns
    x = [i * (wide + gap) + (j + 0.5) * wide / each for i in range(columns) for j in range(each)]
    y = [i * (high + gap) + high / 2 for i in range(len(rows))]
    return sheet.permute(1, 2, 0).numpy(), list(zip(x, heads)), list(zip(y, sides))


def _pairs(before, after, columns):
    """A panel of pairs, `columns` pairs per row (see `_grid`)."""
    # (n, 3, H, 2 W + 2)
    pairs = torch.cat([F.pad(_pixels(before), (0, 2), value=255), _pixels(after)], 3)
    heads = ["before", "after"] * min(columns, len(pairs))
    return _grid(pairs.split(columns), heads, gap=0.17)


def _save_panels(panels, path, inches):
    """Save panels (see `_grid`), each `inches` wide, one below the other."""
    heights = [inches * sheet.shape[0] / sheet.shape[1] for sheet, *_ in panels]
    margin = 0.3  # inches, for a line of text above a panel
    total = sum(heights) + margin * (len(panels) - 1)
    figure = Figure(figsize=(inches, total), dpi=DPI, layout="none")
    top = total
    for (sheet, heads, sides), height in zip(panels, heights):
        axes = figure.add_axes((0, (top - height) / total, 1, height / total))
        top -= height + margin
        axes.imshow(sheet)
        axes.spines[:].set_visible(False)
        axes.set_xticks([x for x, _ in heads], [text for _, text in heads])
        axes.set_yticks([y for y, _ in sides], [text for _, text in sides])
        axes.tick_params(length=0, labelsize=8, top=True, labeltop=True, labelbottom=False)
    _save(figure, path)


# ------------------------------------------------------------------ numbers


def fig4(runs, path):
    """Fig. 4: face verification error (x) against action detection mAP (y); top right is best.

    runs: the content of a `results.json`, or a list of several, drawn side by side. Each run has
    two panels: the error of the training adversary, as in the paper, and of the strongest attacker.
    Bars are +- 1 std over seeds. Rows without these numbers are listed as not run.
    """
    runs = [runs] if isinstance(runs, dict) else runs
    titles = {"own": "Training adversary D (as in the paper)", "strongest": "Strongest attacker"}
    figure = Figure(figsize=(11, 4.7 if len(runs) == 1 else 9), dpi=DPI, layout="constrained")
    figure.suptitle("Privacy against action detection", fontsize=11)
    if len(runs) == 1:
        panels = figure.subplots(1, 2, squeeze=False, sharey="row")
    else:
        panels = figure.subplots(2, len(runs), sharey="col").T  # a column each
    styles = {}  # the same in all panels
    names = dict.fromkeys(row["name"] for results in runs for row in results["rows"])
    for number, name in enumerate(names):
        kind = "Ours" if name.startswith("Ours(") else name
        styles[name] = STYLES.get(kind, (GRAY, OTHERS[number % len(OTHERS)]))
    drawn = {}  # name -> its points and bars
    for results, both in zip(runs, panels):
        seeds = len(results["seeds"])
        run = f"preset {results['preset']}, {seeds} seed{'s' * (seeds != 1)}"
        for axes, (key, title) in zip(both, titles.items()):
            axes.set_title(f"{title}\n{run}", fontsize=10)
            drawn |= _privacy_panel(axes, results["rows"], key, styles)
    if drawn:
        figure.legend(
            drawn.values(), list(drawn), loc="outside right center", fontsize=8, frameon=False
        )
    _save(figure, path)


def _privacy_panel(axes, rows, key, styles):
    """Draw one panel of Fig. 4, for the error `key`. Returns row name -> its points and bars."""
    drawn = {}
    missing = []
    for row in rows:
        name = row["name"]
        x = _measured((row.get("verification_error") or {}).get(key))
        y = _measured(row.get("mAP"))
        if x is None or y is None:
            missing.append(name)
            continue
        color, marker = styles[name]
        drawn[name] = axes.errorbar(
            x[0],
            y[0],
            xerr=x[1],
            yerr=y[1],
            color=color,
            marker=marker,
            markersize=9 if name == "Ours" else 6,
            markerfacecolor="white" if name.startswith("Ours(") else color,
            zorder=4 if name == "Ours" else 3,
            capsize=2,
            elinewidth=0.8,
            linestyle="none",
        )
    axes.axvline(50, color=GRAY, linestyle=":", linewidth=1, zorder=1)
    top = axes.get_xaxis_transform()
    axes.text(49.5, 0.5, "chance", transform=top, rotation=90, ha="right", va="center", color=GRAY)
    if not drawn:
        axes.text(0.5, 0.5, "not run", transform=axes.transAxes, ha="center", color=GRAY)
    axes.set_ylabel("action detection mAP (%)")
    not_run = f"not run: {', '.join(missing)}" if missing else ""
    axes.set_xlabel("\n".join(["face verification error (%)", *textwrap.wrap(not_run, 55)]))
    axes.grid(color="#e6e6e6", linewidth=0.6, zorder=0)
    axes.margins(0.1)
    return drawn


def training_curves(log_lines, path):
    """One panel per term of `log.jsonl`: values thin, running mean thick, one stage after another.

    log_lines: dicts with `stage`, `step` (from 1 in each stage) and floats.
    """
    stages = {}  # name -> its lines
    for line in log_lines:
        stages.setdefault(line["stage"], []).append(line)
    terms = dict.fromkeys(term for line in log_lines for term in line)  # ordered set
    terms = [term for term in terms if term not in ("stage", "step")]
    rows = math.ceil(len(terms) / 3)
    figure = Figure(figsize=(10.2, 2.2 * rows + 0.3), dpi=DPI, layout="constrained")
    drawn = {}  # stage -> line
    for number, term in enumerate(terms, 1):
        axes = figure.add_subplot(rows, 3, number)
        axes.set_title(term, fontsize=9, fontweight="bold")
        axes.set_xlabel("step", fontsize=7)
        axes.tick_params(labelsize=7)
        end = 0
        borders = []  # where stages with this term begin and end
        for i, (stage, lines) in enumerate(stages.items()):
            if i > 0:
                axes.axvline(end, color="#cccccc", linewidth=0.8)
            finite = [line for line in lines if math.isfinite(line.get(term, math.nan))]
            last = end + max(line["step"] for line in lines)
            if finite:
                x = [end + line["step"] for line in finite]
                y = np.array([line[term] for line in finite])
                marker = "." if len(x) < 3 else None
                axes.plot(x, y, color=f"C{i}", linewidth=0.6, alpha=0.45, marker=marker)
                drawn[stage] = axes.plot(x, _smooth(y), color=f"C{i}", linewidth=1.8)[0]
                borders += [end, last]
            end = last
        if borders:
            axes.set_xlim(min(borders), max(borders))
    figure.legend(drawn.values(), list(drawn), loc="outside upper center", ncols=6, fontsize=7)
    _save(figure, path)


def table1_markdown(results):
    """Table 1 as Markdown: AP of each class, mAP and the attackers' verification errors, all in %.

    results: the content of `results.json`. Means over seeds, with +- std where there are several.
    """
    classes = list(dict.fromkeys(name for row in results["rows"] for name in row.get("AP") or {}))
    lines = {"Method": [*classes, "mAP", *ERRORS.values()]}
    for row in results["rows"]:
        ap = row.get("AP") or {}
        lines[row["name"]] = [*map(_percent, map(ap.get, classes)), *_numbers(row, ERRORS)]
    return _markdown(lines)


def screen_line(name, row=None):
    """The line of Table 1 that is printed when a row is finished: mAP and three errors.

    All lines have the same width, so that they form a table. row: the row of one seed, as
    `evaluate.judge_row` returns it; None gives the head.
    """
    heads = ["mAP", *(ERRORS[key] for key in ON_SCREEN)]
    cells = heads if row is None else _numbers(row, ON_SCREEN)
    padded = [cell.rjust(len(head)) for cell, head in zip(cells, heads)]
    return f"| {' | '.join([name.ljust(14), *padded])} |"


def _numbers(row, errors):
    """A row's mAP and these verification errors, in %."""
    by_attacker = row.get("verification_error") or {}
    return [_percent(value) for value in (row.get("mAP"), *map(by_attacker.get, errors))]


def ablation_markdown(results):
    """Does D remain accurate (Sec. 5.6)? Verification error of each row's own D and of the D before
    the game, on original and on modified faces, in %, as Markdown. The paper: 5.25 and 33.05."""
    kinds = ("originals", "modified")
    lines = {"Method": [f"{d} D: {kind}" for d in ("own", "pretrained") for kind in kinds]}
    for row in results["rows"]:
        lines[row["name"]] = []
        for name in ("own", "never_saw"):
            reports = [attacks[name] for attacks in row.get("attacks") or []]
            originals = over_seeds([report["originals"] for report in reports])
            modified = over_seeds([report["both"]["error"] for report in reports])
            lines[row["name"]] += [_percent(originals), _percent(modified)]
    return _markdown(lines)


def looks_markdown(results):
    """How much of the faces each row preserves, as Markdown; "-" = not measured."""
    looks = {row["name"]: row.get("structure") or {} for row in results["rows"]}
    kinds = [kind for kind in LOOKS if any(kind in values for values in looks.values())]
    lines = {"Method": kinds}
    for name, values in looks.items():
        cells = map(values.get, kinds)
        lines[name] = ["-" if value is None else f"{value:.3f}" for value in cells]
    return _markdown(lines)


# A run's tables, by file.
TABLES = {
    "table1.md": table1_markdown,
    "ablation.md": ablation_markdown,
    "looks.md": looks_markdown,
}


def _markdown(lines):
    """A Markdown table. lines: first cell -> other cells; the first line is the head."""
    head, *rows = [[name, *cells] for name, cells in lines.items()]
    table = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in table)


def over_seeds(values):
    """Mean, standard deviation (n - 1; 0 for one seed) and every seed's value, in the form of
    `results.json`; None for no values."""
    if not values:
        return None
    std = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return {"mean": float(np.mean(values)), "std": std, "per_seed": [*map(float, values)]}


def _measured(value):
    """A number, or a result of `over_seeds` -> (mean, std) in %, std None for one seed; or None."""
    value = value if isinstance(value, dict) else {"mean": value}
    mean = value.get("mean")
    if mean is None or not math.isfinite(mean):
        return None
    return 100 * mean, 100 * value["std"] if len(value.get("per_seed") or ()) > 1 else None


def _percent(value):
    if (measured := _measured(value)) is None:
        return "-"
    mean, std = measured
    return f"{mean:.1f}" if std is None else f"{mean:.1f} ± {std:.1f}"


def _smooth(values):
    """Running mean over a tenth of the curve, over less at its ends. (n,) -> (n,)"""
    half = max(1, len(values) // 20)
    window = np.ones(2 * half + 1)
    total, count = (np.convolve(x, window)[half:-half] for x in (values, np.ones_like(values)))
    return total / count


# ------------------------------------------------------------------ files


def _save(figure, path):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight", pad_inches=0.06)
    _write(Image.open(buffer).convert("RGB"), path)


def _write(picture, path):
    """Write a PNG of at most MOST_BYTES: if needed in 256 colors, then also smaller."""
    data = _png(picture)
    if len(data) > MOST_BYTES:
        # A round of k-means reduces the colors' error by a third; on the large picture it is slow.
        palette = picture.resize((320, 200), Image.Resampling.NEAREST).quantize(256, kmeans=1)
        width, height = picture.size
        while len(data) > MOST_BYTES:
            smaller = picture.resize((width, height), Image.Resampling.BOX)
            data = _png(smaller.quantize(palette=palette, dither=Image.Dither.NONE))
            factor = min(0.95, math.sqrt(MOST_BYTES / len(data)))  # bytes grow with the area
            width = round(width * factor)
            height = round(height * factor)
    write_file(path, data, durable=False)


def _png(picture):
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def main(argv=None) -> None:
    """Draw Fig. 4 of finished runs. A user's error ends with one sentence and status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m ppad.figures",
        description="Fig. 4 for one or more finished runs, side by side.",
        allow_abbrev=False,
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run folder")
    parser.add_argument("--out", type=Path, required=True, help="the PNG to write")
    args = parser.parse_args(argv)
    if args.out.suffix.lower() != ".png":
        parser.error(f"argument --out: {args.out} is written as a PNG: give a name ending in .png")
    fix = "run ppad.reproduce on it again, or name another run"
    needs = ["preset", "seeds", "rows"]
    try:
        fig4([read_json(run / "results.json", fix, needs) for run in args.runs], args.out)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    except (AttributeError, KeyError, TypeError) as error:
        parser.error(f"a results.json is damaged ({error!r}): name finished runs")


if __name__ == "__main__":
    main()
