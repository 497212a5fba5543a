"""The paper's figures and Table 1, drawn from `results.json` and picture tensors (paper sections 5.2-5.4).

Every function takes plain tensors, dicts or lists and writes one PNG (or returns text), so a notebook, a run and a test
call the same code. Figures are drawn with matplotlib's objects, without pyplot: nothing is kept open between calls and
no screen is needed. A number that was not measured is written as "not run" or "-", never as zero.

Pictures are RGB float tensors (n, 3, S, S) in [-1, 1]; errors and APs come as fractions and are shown in %.
"""

import io
import math
import os
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

DPI = 110  # ours: sharp in a README, small on disk
MOST_BYTES = 300_000  # ours: a figure that is committed or mailed stays below this
RED, GREY = "#d62728", "#8a8a8a"
# Colour and marker of a row of Table 1, by the first word of its name. Red square: ours, as in the paper's Fig. 4.
STYLES = {
    "Ours": (RED, "s"),
    "Un-anonymized": ("#222222", "o"),
    "Blur": ("#1f77b4", "o"),
    "Noise": ("#2ca02c", "^"),
    "Masked": ("#222222", "X"),
    "Edge": ("#9467bd", "D"),
    "Super-Pixel": ("#e08214", "P"),
}
ERRORS = {
    "own": "own D",
    "never_saw": "never saw M",
    "other_architecture": "other architecture",
    "retrained": "retrained",
    "strongest": "strongest",
}  # key in results.json -> heading


# ---------------------------------------------------------------- pictures


def fig3(rows, path):
    """Fig. 3, the modifications side by side: one column a method, one row a face.

    rows: dict, name of the method -> (n, 3, S, S), the same n faces through each.
    """
    if not rows:
        raise ValueError("fig3: rows is empty: give at least one method's pictures.")
    strips = [_pixels(pictures, f"fig3 rows[{name!r}]") for name, pictures in rows.items()]
    if len({strip.shape for strip in strips}) > 1:
        raise ValueError(
            f"fig3: rows have {sorted({strip.shape for strip in strips})} pictures: give every method the same faces."
        )
    grid = [[strip[face] for strip in strips] for face in range(len(strips[0]))]
    _picture_figure(grid, path, heads=list(rows))


def fig5(before, after, path, labels=None):
    """Fig. 5, faces before and after modification, as pairs.

    before, after: (n, 3, S, S) each; labels: n short texts to stand below the pairs, or None.
    """
    first, second = _pixels(before, "fig5 before"), _pixels(after, "fig5 after")
    if first.shape != second.shape or (labels is not None and len(labels) != len(first)):
        raise ValueError(
            f"fig5: before has {first.shape}, after {second.shape}, labels {labels and len(labels)}: "
            "give one of each per face, of one size."
        )
    wide = min(4, len(first))  # pairs side by side
    pairs = [
        np.concatenate([a, np.full((a.shape[0], 2, 3), 255, np.uint8), b], 1)
        for a, b in zip(first, second)
    ]
    grid = [pairs[start : start + wide] for start in range(0, len(pairs), wide)]
    texts = (
        [labels[start : start + wide] for start in range(0, len(pairs), wide)]
        if labels is not None
        else None
    )
    _picture_figure(grid, path, heads=["before", "after"] * wide, below=texts, width=2.1, gap=0.17)


def fig6(groups, path):
    """Fig. 6, modified pictures of the same person: one row a person.

    groups: list of (n, 3, S, S), n may differ from person to person.
    """
    if not groups:
        raise ValueError("fig6: groups is empty: give at least one person's pictures.")
    grid = [list(_pixels(pictures, f"fig6 groups[{i}]")) for i, pictures in enumerate(groups)]
    _picture_figure(grid, path, sides=[f"person {i + 1}" for i in range(len(grid))])


def contact_sheet(tensor, path, columns):
    """Pictures (n, 3, S, S) as plain tiles, `columns` to a row, one pixel for one pixel while that stays small."""
    if columns < 1:
        raise ValueError(f"contact_sheet: columns is {columns}: give 1 or more.")
    tiles = list(_pixels(tensor, "contact_sheet tensor"))
    sheet, _, _ = _tiled(
        [tiles[start : start + columns] for start in range(0, len(tiles), columns)], gap=2
    )
    _write(Image.fromarray(sheet), path)


def _pixels(pictures, what):
    """(n, 3, S, S) in [-1, 1] -> (n, S, S, 3) uint8; ValueError naming `what` for anything else."""
    if (
        not torch.is_tensor(pictures)
        or pictures.dim() != 4
        or pictures.shape[1] != 3
        or len(pictures) == 0
    ):
        shape = tuple(pictures.shape) if torch.is_tensor(pictures) else type(pictures).__name__
        raise ValueError(
            f"{what}: is {shape}: give a tensor (n, 3, S, S), n >= 1, of values in [-1, 1]."
        )
    scaled = (pictures.detach().float().cpu().clamp(-1, 1) + 1) * 127.5
    return scaled.round().byte().permute(0, 2, 3, 1).numpy()  # (n, S, S, 3)


def _tiled(grid, gap):
    """Rows of equal (h, w, 3) tiles on white; rows may be short. Returns the picture, tile centres along x and along y."""
    high, wide = grid[0][0].shape[:2]
    columns = max(map(len, grid))
    sheet = np.full(
        (len(grid) * (high + gap) - gap, columns * (wide + gap) - gap, 3), 255, np.uint8
    )
    for i, row in enumerate(grid):
        for j, tile in enumerate(row):
            sheet[
                i * (high + gap) : i * (high + gap) + high,
                j * (wide + gap) : j * (wide + gap) + wide,
            ] = tile
    return (
        sheet,
        [j * (wide + gap) + wide / 2 for j in range(columns)],
        [i * (high + gap) + high / 2 for i in range(len(grid))],
    )


def _picture_figure(grid, path, heads=None, sides=None, below=None, width=1.05, gap=0.05):
    """A grid of tiles with texts: heads above the columns, sides left of the rows, below[i][j] under tile (i, j).

    heads: one text a column, or as many more as a column has pictures; width: inches a column; gap: share of a tile's
    height that is left white between tiles.
    """
    tile, breadth = grid[0][0].shape[:2]
    sheet, xs, ys = _tiled(grid, gap=round(tile * gap) + 1)
    inch = width * len(xs) / sheet.shape[1]  # inches a pixel
    left, right, top, bottom = (
        (0.75 if sides else 0.06),
        0.06,
        (0.3 if heads else 0.06),
        (0.22 if below else 0.06),
    )
    wide, high = sheet.shape[1] * inch + left + right, sheet.shape[0] * inch + top + bottom
    figure = Figure(figsize=(wide, high), dpi=DPI, layout="none")  # axes are placed by hand
    axes = figure.add_axes(
        (left / wide, bottom / high, 1 - (left + right) / wide, 1 - (bottom + top) / high)
    )
    axes.imshow(sheet)
    axes.set_axis_off()
    parts = len(heads) // len(xs) if heads else 1
    places = [x + ((part + 0.5) / parts - 0.5) * breadth for x in xs for part in range(parts)]
    for x, text in zip(places, heads or ()):
        axes.annotate(
            text, (x, 0), (0, 4), textcoords="offset points", ha="center", va="bottom", fontsize=8
        )
    for y, text in zip(ys, sides or ()):
        axes.annotate(
            text, (0, y), (-5, 0), textcoords="offset points", ha="right", va="center", fontsize=8
        )
    for y, texts in zip(ys, below or ()):
        for x, text in zip(xs, texts):
            axes.annotate(
                text,
                (x, y + tile / 2),
                (0, -2),
                textcoords="offset points",
                ha="center",
                va="top",
                fontsize=8,
            )
    _save(figure, path)


# ---------------------------------------------------------------- numbers


def fig4(results, path):
    """Fig. 4: face verification error (x) against action detection mAP (y), top right the best; bars are +- 1 std.

    results: what `results.json` holds. Left, the error of the training adversary, which is what the paper shows; right,
    the error of the strongest attacker. Rows without the numbers are listed as not run.
    """
    figure = Figure(figsize=(10.4, 4.7), dpi=DPI, layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    figure.supylabel("action detection mAP (%)", fontsize=10)
    seeds = len(results.get("seeds") or [])
    figure.suptitle(
        f"Privacy against action detection: preset {results.get('preset', '?')}, "
        f"{seeds} seed{'s' if seeds != 1 else ''}",
        fontsize=11,
    )
    drawn = []
    for axes, key, title in zip(
        panels,
        ("own", "strongest"),
        ("Training adversary D (as in the paper)", "Strongest attacker"),
    ):
        points, missing = [], []
        for row in results["rows"]:
            x, y = (
                _mean_std((row.get("verification_error") or {}).get(key)),
                _mean_std(row.get("mAP")),
            )
            if x is None or y is None:
                missing.append(row["name"])
            else:
                points.append((row["name"], 100 * x[0], 100 * y[0], 100 * x[1], 100 * y[1]))
        for name, x, y, dx, dy in points:
            colour, marker = _style(name)
            axes.errorbar(
                x,
                y,
                xerr=dx or None,
                yerr=dy or None,
                color=colour,
                marker=marker,
                capsize=2,
                elinewidth=0.8,
                markersize=9 if name == "Ours" else 6,
                zorder=4 if name == "Ours" else 3,
                linestyle="none",
                markerfacecolor="white" if name.startswith("Ours ") else colour,
            )
        axes.axvline(50, color=GREY, linestyle=":", linewidth=1, zorder=1)
        axes.annotate(
            "chance",
            (50, 1),
            (-3, -4),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="right",
            va="top",
            rotation=90,
            fontsize=7,
            color=GREY,
        )
        axes.set_title(title, fontsize=10)
        axes.set_xlabel(
            "face verification error (%)" + (f"\nnot run: {', '.join(missing)}" if missing else ""),
            fontsize=9,
        )
        axes.tick_params(labelsize=8)
        axes.grid(color="#e6e6e6", linewidth=0.6, zorder=0)
        axes.margins(0.12, 0.12)
        if not points:
            axes.text(
                0.5, 0.5, "not run", transform=axes.transAxes, ha="center", fontsize=14, color=GREY
            )
        drawn.append((axes, points))
    FigureCanvasAgg(figure).draw()  # fixes the axes' places, which the labels' places depend on
    for axes, points in drawn:
        _label_points(figure, axes, points)
    _save(figure, path)


def training_curves(log_lines, path):
    """One panel a term of `log.jsonl`: raw values thin, their running mean thick, stages one after another.

    log_lines: dicts with `stage`, `step` (from 1 in each stage) and floats. ValueError if no line holds a number.
    """
    stages, series, start = {}, {}, 0  # stages: name -> (first x, last x)
    for line in log_lines:
        if line["stage"] not in stages:
            start = max((last for _, last in stages.values()), default=0)
            stages[line["stage"]] = (start, start)
        start = stages[line["stage"]][0]
        stages[line["stage"]] = (start, max(stages[line["stage"]][1], start + line["step"]))
        for term, value in line.items():
            if (
                term not in ("stage", "step")
                and isinstance(value, (int, float))
                and math.isfinite(value)
            ):
                series.setdefault(term, {}).setdefault(line["stage"], []).append(
                    (start + line["step"], value)
                )
    if not series:
        raise ValueError(
            "training_curves: log_lines holds no number besides stage and step: give the lines of a log.jsonl."
        )
    columns = min(3, len(series))
    rows = math.ceil(len(series) / columns)
    figure = Figure(figsize=(3.4 * columns, 2.2 * rows + 0.3), dpi=DPI, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    end = max(last for _, last in stages.values())
    for axes, (term, by_stage) in zip(grid, series.items()):
        for number, (stage, (first, _)) in enumerate(stages.items()):
            if len(stages) > 1:
                axes.axvline(first, color="#cccccc", linewidth=0.8)
                axes.text(
                    first,
                    1.0,
                    f" {stage}",
                    transform=axes.get_xaxis_transform(),
                    fontsize=6.5,
                    va="bottom",
                    color=GREY,
                )
            if stage in by_stage:
                x, y = np.array(by_stage[stage]).T
                axes.plot(
                    x,
                    y,
                    color=f"C{number}",
                    linewidth=0.6,
                    alpha=0.45,
                    marker="." if len(x) < 3 else None,
                )
                axes.plot(x, _smooth(y), color=f"C{number}", linewidth=1.8)
        axes.set_title(term, fontsize=9, fontweight="bold", pad=14 if len(stages) > 1 else 5)
        axes.set_xlim(0, end)
        axes.tick_params(labelsize=7)
        axes.set_xlabel("step", fontsize=7)
    for axes in grid[len(series) :]:
        axes.set_axis_off()
    _save(figure, path)


def table1_markdown(results):
    """Table 1 as Markdown: AP of each class, mAP and the attackers' verification errors, all in %.

    results: what `results.json` holds. Means over seeds, with +- std where there is more than one; "-" = not run.
    """
    classes = list(dict.fromkeys(name for row in results["rows"] for name in (row.get("AP") or {})))
    lines = [["Method", *classes, "mAP", *(f"error: {heading}" for heading in ERRORS.values())]]
    lines.append(["---"] + ["---:"] * (len(lines[0]) - 1))
    for row in results["rows"]:
        ap, error = row.get("AP") or {}, row.get("verification_error") or {}
        lines.append(
            [
                row["name"],
                *(_percent(ap.get(name)) for name in classes),
                _percent(row.get("mAP")),
                *(_percent(error.get(key)) for key in ERRORS),
            ]
        )
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _mean_std(value):
    """A number or {"mean", "std", "per_seed"} -> (mean, std or 0), or None if it was not measured."""
    mean, std = (value.get("mean"), value.get("std")) if isinstance(value, dict) else (value, None)
    if mean is None or not math.isfinite(mean):
        return None
    several = isinstance(value, dict) and len(value.get("per_seed") or ()) > 1
    return mean, std if several and std is not None and math.isfinite(std) else 0.0


def _percent(value):
    measured = _mean_std(value)
    if measured is None:
        return "-"
    several = isinstance(value, dict) and len(value.get("per_seed") or ()) > 1
    return f"{100 * measured[0]:.1f}" + (f" ± {100 * measured[1]:.1f}" if several else "")


def _smooth(values):
    """Running mean over about a tenth of the curve, the window cut at both ends (so the ends are not bent to zero)."""
    half = max(1, len(values) // 20)
    total = np.concatenate([[0.0], np.cumsum(values)])
    high = np.minimum(np.arange(len(values)) + half + 1, len(values))
    low = np.maximum(np.arange(len(values)) - half, 0)
    return (total[high] - total[low]) / (high - low)


def _style(name):
    return next((style for start, style in STYLES.items() if name.startswith(start)), (GREY, "v"))


def _label_points(figure, axes, points):
    """Write each point's name beside it, at the first of 24 places that overlaps nothing, else at the least bad one."""
    renderer = figure.canvas.get_renderer()
    frame = axes.get_window_extent(renderer)
    spots = (
        axes.transData.transform([(x, y) for _, x, y, _, _ in points])
        if points
        else np.zeros((0, 2))
    )
    taken = []
    for x, y, dx, dy in (
        point[1:] for point in points
    ):  # a point takes its marker, and its error bars
        (left, low), (right, high) = axes.transData.transform([(x - dx, y - dy), (x + dx, y + dy)])
        cx, cy = axes.transData.transform((x, y))
        taken += [
            (cx - 7, cy - 7, cx + 7, cy + 7),
            (left, cy - 1, right, cy + 1),
            (cx - 1, low, cx + 1, high),
        ]
    directions = [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1)]
    for (name, *_), spot in zip(points, spots):
        colour, _ = _style(name)
        text = axes.annotate(
            name,
            spot,
            xycoords="figure pixels",
            fontsize=7.5,
            color=colour,
            fontweight="bold" if name == "Ours" else "normal",
        )
        size = text.get_window_extent(renderer)
        text.remove()
        best = None
        for distance in (10, 22, 36):  # px
            for dx, dy in directions:
                left = spot[0] + dx * distance - (0.5 - 0.5 * dx) * size.width
                low = spot[1] + dy * distance - (0.5 - 0.5 * dy) * size.height
                box = (left, low, left + size.width, low + size.height)
                outside = max(
                    frame.x0 - box[0], box[2] - frame.x1, frame.y0 - box[1], box[3] - frame.y1, 0
                )
                badness = sum(_overlap(box, other) for other in taken) + 1000 * outside + distance
                if best is None or badness < best[0]:
                    best = badness, box, distance
        _, box, distance = best
        taken.append(box)
        to_points = 72 / figure.dpi
        offset = ((box[0] - spot[0]) * to_points, (box[1] - spot[1]) * to_points)
        arrow = (
            {"arrowstyle": "-", "color": colour, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3}
            if distance > 10
            else None
        )
        axes.annotate(
            name,
            axes.transData.inverted().transform(spot),
            offset,
            textcoords="offset points",
            fontsize=7.5,
            color=colour,
            fontweight="bold" if name == "Ours" else "normal",
            arrowprops=arrow,
            zorder=5,
            va="bottom",
            annotation_clip=False,
        )


def _overlap(a, b):
    """Area shared by two xyxy boxes; 100 px more for touching at all, so that a thin error bar counts."""
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return wide * high + 100 if wide > 0 and high > 0 else 0.0


# ---------------------------------------------------------------- files


def _save(figure, path):
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    _write(Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy()), path)


def _write(picture, path):
    """Write a PNG of at most MOST_BYTES: as it is, else in 256 colours, else in 256 colours and smaller.

    It goes to another name in the same folder first, so that nobody ever sees half a file.
    """
    path = Path(path)
    data, size = _png(picture), picture.size
    if len(data) > MOST_BYTES:
        # Colours are chosen on a small copy: one round of k-means takes a third off their error, and is slow on a large one.
        palette = picture.resize((320, 200), Image.Resampling.NEAREST).quantize(256, kmeans=1)
        while len(data) > MOST_BYTES:
            data = _png(
                picture.resize(size, Image.Resampling.BOX).quantize(
                    palette=palette, dither=Image.Dither.NONE
                )
            )
            factor = min(
                0.95, math.sqrt(MOST_BYTES / len(data))
            )  # the file is about as large as its area
            size = round(size[0] * factor), round(size[1] * factor)
    temporary = path.with_name(f".{path.name}.part")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(
            f"cannot write {path} ({error.strerror}): free some disk space and run the same command again"
        ) from error


def _png(picture):
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
