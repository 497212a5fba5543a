"""Figures of single lessons, so that their cells show the idea without drawing code."""

import lesson
import matplotlib.pyplot as plt
import numpy as np
import torch
from torchvision.ops import box_iou

from ppad.toyworld import ACTIONS

COLORS = ["C0", "C1", "C2", "C3", "C4", "C5"]  # one per person

# ------------------------------------------------------------------ 00 welcome, 04 actions


def detections(cases) -> None:
    """A's best detection in each picture: {title: (picture (1, 3, H, W), A)}."""
    _, axes = plt.subplots(1, len(cases), figsize=(9, 3.2))
    for axis, (title, (picture, detector)) in zip(axes, cases.items()):
        best = detector.detect(picture)[0]  # best first
        if len(best["boxes"]) == 0:
            lesson.draw(axis, picture[0], f"{title}: no detection")
            continue
        action = ACTIONS[int(best["labels"][0]) - 1]
        lesson.draw(axis, picture[0], f"{title}: {action}, {100 * best['scores'][0]:.0f} %")
        lesson.outline(axis, best["boxes"][0], "cyan")
    plt.show()


def lineup(probe, pictures, gallery, similar, person) -> None:
    """One picture against a gallery, a row for each kind of picture.

    Args: probe: its index. pictures: {kind: (n, 3, S, S)}. gallery (g, 3, S, S). similar: {kind:
        cosines (n, g)}. person: the right one, framed in green; a wrong choice by D is red.
    """
    side = gallery.shape[-1]
    _, axes = plt.subplots(2, len(gallery) + 1, figsize=(10, 3))
    for row, kind in zip(axes, pictures):
        cosines = similar[kind][probe]  # (g,)
        lesson.draw(row[0], pictures[kind][probe], f"who is this?\n{kind}")
        for number, axis in enumerate(row[1:]):
            lesson.draw(axis, gallery[number], f"{cosines[number]:.2f}")
            if number in (int(cosines.argmax()), person):
                color = "limegreen" if number == person else "red"
                lesson.outline(axis, (0, 0, side, side), color, width=5)
    plt.show()


def best_detection(axis, picture, detection, truth) -> None:
    """A's best detection: green if action and box are right, else red."""
    if len(detection["boxes"]) == 0:
        lesson.draw(axis, picture, "nothing found")
        return
    label = int(detection["labels"][0])
    iou = box_iou(detection["boxes"][:1], truth["boxes"]).item()
    color = "green" if label == int(truth["labels"][0]) and iou >= 0.5 else "red"
    lesson.draw(axis, picture, f"{ACTIONS[label - 1]} {detection['scores'][0]:.2f}", color)
    lesson.outline(axis, detection["boxes"][0], color)


# ------------------------------------------------------------------ 01 the data


def boxed(pictures, titles, boxes, columns=5, size=1.8, window=None) -> None:
    """Pictures side by side, each with [(box, color), ...]; window: the visible x0, x1, y0, y1."""
    rows = -(-len(pictures) // columns)
    _, axes = plt.subplots(
        rows, columns, figsize=(columns * size, rows * size * 1.15), squeeze=False
    )
    for axis, picture, title, outlined in zip(axes.flat, pictures, titles, boxes):
        lesson.draw(axis, picture, title)
        for box, color in outlined:
            lesson.outline(axis, box, color)
        if window:
            axis.set(xlim=window[:2], ylim=window[:1:-1])
    plt.show()


def differences(cases) -> None:
    """Where two frames differ: {title: (mask (H, W), face box, square)}."""
    _, axes = plt.subplots(1, len(cases), figsize=(9, 2.6))
    for axis, (title, (mask, face_box, square)) in zip(axes, cases.items()):
        side = len(mask)
        lesson.heat(axis, mask, cmap="gray", extent=(0, side, side, 0))
        axis.set_title(title, fontsize=10)
        lesson.outline(axis, face_box, "limegreen")
        lesson.outline(axis, square, "yellow")
    plt.show()


def coordinates(small, large) -> None:
    """A picture of 16 pixels with a box, and a larger one with its landmarks."""
    _, axes = plt.subplots(1, 2, figsize=(8, 3.8))
    axes[0].imshow(small.image, extent=(0, 16, 16, 0))  # pixel i covers [i, i + 1)
    axes[0].set(xticks=range(0, 17, 2), yticks=range(0, 17, 2))
    axes[0].grid(True, color="white", linewidth=0.3)
    lesson.outline(axes[0], (3, 3, 13, 13), "yellow", width=2)
    axes[0].set_title("16 pixels; the box (3, 3, 13, 13) covers 10 x 10 of them", fontsize=8)
    side = len(large.image)
    axes[1].imshow(large.image, extent=(0, side, side, 0))
    names = ("left eye", "right eye", "nose", "left mouth", "right mouth")
    for (x, y), name in zip(large.landmarks, names):
        axes[1].plot(x, y, "o", color="yellow", markeredgecolor="black", markersize=5)
        place = (x + (-22 if "left" in name else 2), y - 2)
        dark = {"facecolor": "black", "alpha": 0.6, "pad": 1, "linewidth": 0}
        axes[1].annotate(name, (x, y), place, color="white", fontsize=8, bbox=dark)
    axes[1].set_title(f"the same face at {side} pixels, and its five landmarks", fontsize=8)
    plt.show()


def found_faces(picture, found) -> None:
    """A picture (3, H, W) with MTCNN's boxes and landmarks."""
    _, axis = plt.subplots(figsize=(3.5, 3.5))
    lesson.draw(axis, picture, f"faces found: {len(found['boxes'])}")
    for box, points in zip(found["boxes"], found["landmarks"]):
        lesson.outline(axis, box, "limegreen", width=2)
        axis.plot(points[:, 0], points[:, 1], "o", color="yellow", markersize=4)
    plt.show()


def stored(path) -> None:
    """A stored figure, compressed like all figures of the lessons."""
    pixels = plt.imread(path)  # (H, W, 3 or 4)
    _, axis = plt.subplots(figsize=(pixels.shape[1] / 100, pixels.shape[0] / 100))
    axis.imshow(pixels)
    axis.axis("off")
    plt.show()


def landmark_clouds(clouds, target) -> None:
    """Landmarks of many faces: {title: (n, 5, 2)}, and their target points (5, 2)."""
    _, axes = plt.subplots(1, len(clouds), figsize=(7, 3.4), sharex=True, sharey=True)
    for axis, (title, cloud) in zip(axes, clouds.items()):
        x, y = cloud.numpy().transpose(2, 0, 1)  # (n, 5) each, a color for each landmark
        axis.plot(x, y, ".", markersize=3)
        axis.plot(target[:, 0], target[:, 1], "k+", markersize=14, markeredgewidth=2)
        axis.set_title(f"landmarks of {len(cloud)} faces, {title}", fontsize=9)
        axis.set_aspect("equal")
    axes[0].invert_yaxis()
    plt.show()


def paths(pictures, outlines) -> None:
    """Pictures with a closed line (n, 2) in each."""
    _, axes = plt.subplots(1, len(pictures), figsize=(9, 2.1))
    for axis, picture, outline in zip(axes, pictures, outlines):
        lesson.draw(axis, picture)
        axis.plot(outline[:, 0], outline[:, 1], color="yellow", linewidth=2)
    plt.show()


# ------------------------------------------------------------------ 02 hand-made anonymizers


def stages(pictures) -> None:
    """The stages of an algorithm as gray pictures: {title: (H, W)}."""
    _, axes = plt.subplots(1, len(pictures), figsize=(9.5, 2.2))
    for axis, (title, picture) in zip(axes, pictures.items()):
        lesson.heat(axis, picture, cmap="gray")
        axis.set_title(title, fontsize=9)
    plt.show()


def what_is_left(table, rows, columns) -> None:
    """A table (rows, columns) of correlations."""
    _, axis = plt.subplots(figsize=(8, 3.2))
    lesson.write_values(axis, table, dark_below=0.6)
    axis.set_yticks(range(len(rows)), rows)
    axis.set_xticks(range(len(columns)), columns, rotation=35, ha="right")
    axis.set_title("correlation with the original")
    plt.show()


# ------------------------------------------------------------------ 03 recognizing people


def margin_curves(psi, margin_lambda) -> None:
    """psi for each m, and the mixture for the true person at m = 4."""
    theta = torch.linspace(0, torch.pi, 361, dtype=torch.float64)
    degrees = theta.rad2deg()
    _, (left, right) = plt.subplots(1, 2, figsize=(9, 3))
    for m in (1, 2, 3, 4):
        name = f"m = {m}" + (" (plain cosine)" if m == 1 else "")
        left.plot(degrees, psi(theta.cos(), m), label=name)
    left.set(xlabel="angle to the own direction (degrees)", title=r"$\psi$")
    hard = psi(theta.cos(), 4)
    mixture = (margin_lambda * theta.cos() + hard) / (1 + margin_lambda)
    right.plot(degrees, theta.cos(), "k:", label="plain cosine")
    right.plot(degrees, hard, "k--", linewidth=1, label=r"$\psi$, m = 4")
    right.plot(degrees, mixture, "C3", linewidth=2, label=rf"mixture, $\lambda$ = {margin_lambda}")
    right.set(
        xlabel="angle to the own direction (degrees)", title="what counts for the true person"
    )
    for axis in (left, right):
        axis.legend(fontsize=8, loc="lower left")
    plt.show()


def circles(angle, directions, cases) -> None:
    """Two people on a circle: {title: [correct (n,) bool of person 0, of person 1]}."""
    _, axes = plt.subplots(1, len(cases), figsize=(8, 3.8))
    for axis, (title, correct) in zip(axes, cases.items()):
        axis.plot(angle.cos(), angle.sin(), color="#cccccc", linewidth=9, solid_capstyle="butt")
        for person, ok in enumerate(correct):
            color = COLORS[person]
            axis.scatter(angle[ok].cos(), angle[ok].sin(), s=14, color=color, zorder=3)
            x = directions[person].cos()
            y = directions[person].sin()
            axis.plot([0, x], [0, y], color=color, linewidth=2)
            axis.text(0.6 * x + 0.05, 0.6 * y + 0.05, f"$W_{person + 1}$", color=color)
        axis.set_title(title, fontsize=9)
        axis.set_aspect("equal")
        axis.axis("off")
    plt.show()


def golden_spiral(count=1000):
    """Points spread evenly on a sphere, (count, 3)."""
    number = torch.arange(count, dtype=torch.float64)
    height = 1 - 2 * (number + 0.5) / count
    angle = number * torch.pi * (3 - 5**0.5)
    radius = (1 - height**2).sqrt()
    return torch.stack([radius * angle.cos(), radius * angle.sin(), height], dim=1)


def caps(points, cases) -> None:
    """Six people's regions on a sphere: {title: [correct (n,) bool, one per person]}."""
    figure = plt.figure(figsize=(8, 3.8))
    eye = torch.tensor([1.0, 0.8, 0.75], dtype=torch.float64)
    near = (points @ eye > 0).numpy()
    for place, (title, correct) in enumerate(cases.items()):
        colors = np.array(["#dddddd"] * len(points), dtype=object)
        for person, ok in enumerate(correct):
            colors[ok.numpy()] = COLORS[person]
        axis = _globe_axis(figure, place, title)
        axis.scatter(*points[near].T, c=list(colors[near]), s=24, depthshade=False)
        axis.view_init(elev=30, azim=38)
    plt.show()


def embeddings(cases, people) -> None:
    """Faces (dots) and directions (crosses) on a sphere: {title: ((n, 3), (6, 3))}; people (n,)."""
    figure = plt.figure(figsize=(8, 3.9))
    u, v = np.mgrid[0 : 2 * np.pi : 25j, 0 : np.pi : 13j]
    globe = (np.cos(u) * np.sin(v), np.sin(u) * np.sin(v), np.cos(v))
    colors = [COLORS[i] for i in people.tolist()]
    for place, (title, (features, directions)) in enumerate(cases.items()):
        axis = _globe_axis(figure, place, title)
        axis.plot_wireframe(*globe, color="#e4e4e4", linewidth=0.5)
        axis.scatter(*features.T, c=colors, s=9, depthshade=False)
        outside = 1.12 * directions.T
        axis.scatter(*outside, c=COLORS, marker="X", s=70, edgecolors="k", depthshade=False)
    plt.show()


def _globe_axis(figure, place, title):
    axis = figure.add_subplot(1, 2, place + 1, projection="3d")
    axis.set_box_aspect((1, 1, 1), zoom=1.25)
    axis.set_axis_off()
    axis.set_title(title, fontsize=9)
    return axis


def schedules(steps, curves) -> None:
    """Lambda over D's updates: {name: values}; the last curve is dotted."""
    _, axis = plt.subplots(figsize=(9, 2.8))
    for number, (name, values) in enumerate(curves.items()):
        axis.plot(steps, values, ":" if number == len(curves) - 1 else "-", label=name)
    axis.set(yscale="log", xlabel="updates of D", ylabel=r"$\lambda$")
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    plt.show()


def scores_and_folds(scores, same, threshold, accuracies) -> None:
    """Histogram of the scores (P,) of both kinds of pair, and the accuracy (F,) of each fold."""
    _, (left, right) = plt.subplots(1, 2, figsize=(9, 3), width_ratios=(3, 2))
    bins = np.linspace(scores.min(), 1, 41)
    left.hist(scores[same], bins, alpha=0.6, label="same person", color="C0")
    left.hist(scores[~same], bins, alpha=0.6, label="two people", color="C1")
    left.axvline(threshold, color="k", linewidth=1, linestyle=":", label="threshold")
    left.set(xlabel="cosine of the two features", ylabel="pairs")
    left.legend(fontsize=8)
    percent = 100 * accuracies
    right.bar(range(len(percent)), percent, color="#9aa7b8")
    right.axhline(percent.mean(), color="k", linewidth=1)
    lowest = min(80, percent.min() - 5)
    right.set(xlabel="fold", ylabel="accuracy (%)", ylim=(lowest, 100), xticks=range(len(percent)))
    plt.show()


def roc_curves(curves, diagonal, title="") -> None:
    """ROC curves: {name: (FAR, TAR)}. diagonal: "guessing" or "EER", drawn dotted."""
    _, axis = plt.subplots(figsize=(4.6, 4))
    for name, (far, tar) in curves.items():
        axis.plot(far, tar, label=name.replace("_", " "))
    ends = [1, 0] if diagonal == "EER" else [0, 1]
    axis.plot([0, 1], ends, "k:", linewidth=1, label=diagonal)
    axis.set(xlabel="false accept rate", ylabel="true accept rate", title=title)
    axis.set_aspect("equal")
    axis.legend(fontsize=8, loc="lower right")
    plt.show()


def attackers_of_rows(rows, kinds) -> None:
    """Attackers' errors, one line per row of Table 1: kinds = {attacker: (marker, color)}."""
    _, axis = plt.subplots(figsize=(9, 3.6))
    names = [row["name"] for row in rows]
    for kind, (marker, color) in kinds.items():
        errors = [100 * row["verification_error"][kind]["mean"] for row in rows]
        label = kind.replace("_", " ")
        axis.scatter(errors, names, marker=marker, color=color, s=38, label=label, zorder=3)
    axis.axvline(50, color="k", linestyle=":", linewidth=1, label="guessing")
    axis.invert_yaxis()
    axis.grid(axis="y", color="#eeeeee")
    axis.set_xlabel("face verification error (%): further right is more private")
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    plt.show()


# ------------------------------------------------------------------ 04 seeing actions


def anchors_of(frame, truth, anchors, cell, best) -> None:
    """The anchors of one cell, the centers of all, and the best anchors with the true box."""
    _, axes = plt.subplots(1, 3, figsize=(9, 3.2))
    lesson.draw(axes[0], frame, "the anchors of one cell")
    for number, i in enumerate(cell):
        lesson.outline(axes[0], anchors[i], f"C{number}", width=1.2)
    lesson.draw(axes[1], frame, f"{len(anchors) // len(cell)} centers, {len(cell)} anchors each")
    middle = (anchors[:, :2] + anchors[:, 2:]) / 2
    axes[1].plot(*middle.T, "w+", markersize=5)
    lesson.draw(axes[2], frame, "the five that fit best, and the truth")
    for i in best:
        lesson.outline(axes[2], anchors[i], "#ff7f0e", "--", 1.1)
    lesson.outline(axes[2], truth, "#2ca02c", width=2.2)
    plt.show()


def suppressed(frame, boxes, scores, cases) -> None:
    """Boxes before and after NMS: {title: indices}; yellow boxes have a high score."""
    _, axes = plt.subplots(1, len(cases), figsize=(6.5, 3.4))
    for axis, (title, chosen) in zip(axes, cases.items()):
        count = "1 box" if len(chosen) == 1 else f"{len(chosen)} boxes"
        lesson.draw(axis, frame, f"{title}: {count}")
        for i in reversed(list(chosen)):
            lesson.outline(axis, boxes[i], plt.cm.viridis(float(scores[i])), width=1.3)
    plt.show()


def precision_recall(recall, precision, corners, area) -> None:
    """Precision over recall, point by point, and the envelope through its corners [(x, y)]."""
    _, axis = plt.subplots(figsize=(5, 3.2))
    x, y = zip(*corners)
    axis.fill_between(x, y, color="#dbe7f3", label=f"envelope, area {area:.3f}")
    axis.plot(recall, precision, "o-", color="C3", markersize=5, linewidth=1, label="precision")
    for number, point in enumerate(zip(recall, precision), start=1):
        axis.annotate(f"{number}", point, (5, 3), textcoords="offset points", fontsize=8)
    axis.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.1))
    axis.legend(fontsize=8, loc="lower left")
    plt.show()


def detections_of_rows(seen, found, truths, shown, labels=None) -> None:
    """Best detections, a row per name: {name: frames (n, 3, H, W)}, {name: detections}."""
    rows = len(seen)
    _, axes = plt.subplots(rows, len(shown), figsize=(9.5, 10.5 / len(shown) * rows), squeeze=False)
    for row, name in zip(axes, seen):
        for axis, i in zip(row, shown):
            best_detection(axis, seen[name][i], found[name][i], truths[i])
            if labels:
                axis.set_xlabel(labels[i], fontsize=9)
        row[0].set_ylabel(name, fontsize=9)
    plt.show()


def action_precisions(rows, groups) -> None:
    """AP of each action (dots) and mean (bars), a line per row; groups: {title: actions}."""
    _, axes = plt.subplots(1, len(groups), figsize=(9.5, 3.8), sharey=True)
    for axis, (title, actions) in zip(axes, groups.items()):
        for place, row in enumerate(rows):
            values = [100 * row["AP"][name] for name in actions]
            axis.barh(place, np.mean(values), color="#c9d6e6")
            axis.scatter(values, [place] * len(actions), s=12, color="C0", zorder=3)
        axis.set(title=title, xlabel="average precision (%)", xlim=(0, 104))
        axis.set_yticks(range(len(rows)), [row["name"] for row in rows])
    axes[0].invert_yaxis()
    plt.show()


# ------------------------------------------------------------------ 05 the modifier and the crop


def feature_maps(stages) -> None:
    """The five most varied channels after several layers of M: {name: (1, C, h, w)}."""
    _, axes = plt.subplots(len(stages), 5, figsize=(6.2, 1.15 * len(stages)))
    for row, (name, features) in zip(axes, stages.items()):
        channels, height, width = features.shape[1:]
        busiest = features[0].flatten(1).std(dim=1).argsort(descending=True)[:5]
        for axis, channel in zip(row, busiest):
            lesson.heat(axis, features[0, channel], cmap="gray")
        row[0].set_ylabel(f"{name}\n{channels} x {height} x {width}", fontsize=8)
    plt.show()


def footprints(maps) -> None:
    """Which pixels a feature depends on: {title: gradient (H, W)}, on a logarithmic scale."""
    _, axes = plt.subplots(1, len(maps), figsize=(9, 2.6))
    for axis, (title, seen) in zip(axes, maps.items()):
        strength = (seen / seen.max()).clamp(min=1e-6).log10()
        lesson.heat(axis, strength, cmap="magma", vmin=-6, vmax=0)
        axis.set_title(title, fontsize=9)
    plt.show()


def checkerboard(counts, pictures) -> None:
    """The number of contributions to each pixel, and pictures: {title: (3, H, W)}."""
    _, axes = plt.subplots(1, 1 + len(pictures), figsize=(9, 3.1))
    lesson.write_values(axes[0], counts, dark_below=4, text="{:.0f}")
    axes[0].set(title="contributions to each pixel", xticks=[], yticks=[])
    for axis, (title, picture) in zip(axes[1:], pictures.items()):
        lesson.draw(axis, picture, title)
    plt.show()


def grid_and_crop(picture, crop, x, y, points, goal) -> None:
    """A picture with the sampling grid (x, y) and landmarks (5, 2); its crop with the template."""
    _, axes = plt.subplots(1, 2, figsize=(7, 3.6))
    lesson.draw(axes[0], picture, "the grid (every 5th point) and landmarks")
    lesson.draw(axes[1], crop, "the aligned crop and its template")
    axes[0].plot(x[::5, ::5], y[::5, ::5], ".", color="white", markersize=2)
    axes[0].plot(*points.T, "+", color="yellow", markersize=9)
    axes[1].plot(*goal.T, "+", color="yellow", markersize=9)
    plt.show()


def gradients(steps, name, loss, box=None) -> None:
    """Pictures above, a loss's absolute gradient below: {title: (picture, its gradient)}."""
    _, axes = plt.subplots(2, len(steps), figsize=(1.8 * len(steps), 3.7))
    for (top, bottom), (title, (picture, gradient)) in zip(axes.T, steps.items()):
        lesson.draw(top, picture, title)
        strength = gradient.abs().sum(0)  # (H, W)
        # the root makes small values visible
        lesson.heat(bottom, (strength / strength.max()).sqrt(), cmap="magma")
        if box is not None and picture.shape[-1] > 100:
            lesson.outline(bottom, box, "white", width=0.8)
    axes[0, 0].set_ylabel(name, fontsize=9)
    axes[1, 0].set_ylabel(f"gradient of {loss}", fontsize=9)
    plt.show()


# ------------------------------------------------------------------ 06 the game


def reward(people) -> None:
    """M's reward with and without the cap, and the two cases that the cap makes equal."""
    cap = float(np.log(people))
    _, axes = plt.subplots(1, 3, figsize=(9.5, 2.9), width_ratios=(1.5, 1, 1))
    p = torch.logspace(-4, 0, 200)
    axes[0].plot(p, -p.log(), "--", color="gray", label="no cap (the paper)")
    capped = (-p.log()).clamp(max=cap)
    axes[0].plot(p, capped, color="C3", linewidth=2, label=f"capped at log {people}")
    axes[0].axvline(1 / people, color="black", linewidth=0.7)
    axes[0].text(1 / people, 8.2, " chance", fontsize=8)
    axes[0].set(xscale="log", xlabel="p of the true person", ylabel="M's reward", ylim=(0, 9.5))
    axes[0].legend(fontsize=8, loc="lower left")
    shown = min(people, 10)
    uniform = torch.full((shown,), 1 / people)
    swapped = torch.full((shown,), 0.002)
    swapped[-1] = 1 - 0.002 * (people - 1)
    _probabilities(axes[1], uniform, "D knows nothing", cap)
    _probabilities(axes[2], swapped, "D is certain of another", cap)
    plt.show()


def _probabilities(axis, probabilities, title, cap):
    axis.bar(range(len(probabilities)), probabilities, color=["C0"] + ["lightgray"] * 9)
    loss = -float(np.log(probabilities[0]))
    rewards = f"reward without cap {loss:.1f}, with {min(loss, cap):.1f}"
    axis.set_title(f"{title}: $L_D$ = {loss:.1f}\n{rewards}", fontsize=9)
    place = (0, probabilities[0] + 0.04)
    axis.text(*place, "true person", rotation=90, ha="center", va="bottom", fontsize=8)
    axis.set(ylim=(0, 1.05), xticks=[], xlabel=f"{len(probabilities)} of the people")


def small_games(games) -> None:
    """The paths of games of two numbers: {name: [(m, d), ...]}, one panel per game."""
    size = (3.1 * len(games), 3.4)
    figure, axes = plt.subplots(1, len(games), figsize=size, layout="constrained")
    for axis, (name, path) in zip(axes, games.items()):
        m, d = zip(*path)
        axis.plot(m, d, color="C0", linewidth=1)
        axis.plot(m[0], d[0], "o", color="C2", label="start")
        axis.plot(m[-1], d[-1], "s", color="C3", label="end")
        axis.set(title=name, xlabel="m", aspect="equal")
        axis.axhline(0, color="gray", linewidth=0.5)
        axis.axvline(0, color="gray", linewidth=0.5)
        axis.set_ylabel("d")
    handles = axes[0].get_legend_handles_labels()
    figure.legend(*handles, fontsize=8, loc="outside lower center", ncols=2)
    plt.show()


def chase(rows, names, turns, measured) -> None:
    """M's pictures at the end of each turn, and D's loss and recognition over all turns.

    Args: rows: list of (n, 3, S, S); names: one each. turns: [(first step, "M" or "D")]. measured:
        [(step, L_D(M(f)) / log N, share identified)].
    """
    figure = plt.figure(figsize=(9.5, 4.4))
    left, right = figure.subfigures(1, 2, width_ratios=(1.1, 1))
    lesson.strips(left.subplots(), rows, names)
    axis = right.subplots()
    step, loss, share = zip(*measured)
    axis.plot(step, loss, "o-", color="C0", markersize=3, label=r"$L_D(M(f))\,/\,\log N$")
    axis.plot(step, share, "o-", color="C1", markersize=3, label="share that D identifies")
    for first, who in turns:
        axis.axvline(first, color="gray", linewidth=0.7)
        axis.text(first, 1.02, f" {who}'s turn", fontsize=8)
    axis.set(xlabel="update", ylim=(0, 1.1))
    axis.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    plt.show()


def rows_of_faces(rows, names) -> None:
    """Rows of faces, a list of (n, 3, S, S), with their names."""
    side = 1.15
    _, axis = plt.subplots(figsize=(side * len(rows[0]) + 1.5, side * len(rows)))
    lesson.strips(axis, rows, names)
    plt.show()


# ------------------------------------------------------------------ 07 judging it


def threshold(scores, same, cut, curves) -> None:
    """Histograms of scores and ROC curves with a dot at one threshold.

    Args: scores: {title: (P,)}. same (P,) bool. cut: the threshold. curves: {title: (FAR, TAR)}.
    """
    _, axes = plt.subplots(1, len(scores) + 1, figsize=(10, 3.2))
    shape = {"bins": 40, "range": (-1, 1), "alpha": 0.6}
    for axis, (title, values) in zip(axes, scores.items()):
        axis.hist(values[same], color="C0", label="same person", **shape)
        axis.hist(values[~same], color="C1", label="two people", **shape)
        axis.axvline(cut, color="black", linestyle=":")
        axis.set(title=f"{title}: scores by own D", xlabel="cosine", ylabel="pairs")
        axes[-1].plot(*curves[title], label=title)
        accepted = (values > cut).float()
        axes[-1].plot(accepted[~same].mean(), accepted[same].mean(), "ko")
    axes[0].legend(fontsize=8, loc="upper left")
    axes[-1].plot([0, 1], [0, 1], color="gray", linestyle=":", label="guessing")
    axes[-1].set(title=f"ROC, dots at t = {cut}", xlabel="FAR", ylabel="TAR")
    axes[-1].legend(fontsize=8, loc="lower right")
    plt.show()


def attack(histories, own) -> None:
    """Attackers' errors over their steps, and the error of the D that M was trained against.

    Args: histories: {name of M: [(step, error)]}. own: {name of M: error}.
    """
    _, axis = plt.subplots(figsize=(8, 3.6))
    for number, (name, history) in enumerate(histories.items()):
        steps, values = zip(*history)
        color = f"C{number}"
        axis.plot(steps, [100 * x for x in values], "o-", color=color, label=f"{name}: attacker")
        axis.axhline(100 * own[name], color=color, linestyle="--", label=f"{name}: own D")
    axis.axhline(50, color="black", linestyle=":", linewidth=1, label="guessing")
    axis.set(xlabel="the attacker's steps", ylabel="verification error (%)", ylim=(0, 53))
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    plt.show()


def rank_bars(rates, names, guessing) -> None:
    """Rank-1 rates of several recognizers: {setting: [percent]}."""
    _, axis = plt.subplots(figsize=(9.5, 3.4))
    for place, (title, values) in enumerate(rates.items()):
        where = np.arange(len(names)) + 0.27 * (place - 1)
        axis.bar_label(axis.bar(where, values, 0.25, label=title), fmt="%.0f", fontsize=8)
    axis.axhline(guessing, color="black", linestyle=":", label="guessing")
    axis.set_xticks(range(len(names)), [name.replace("_", " ") for name in names])
    axis.set(ylabel="rank-1 (%)", ylim=(0, 130), yticks=range(0, 101, 20))
    axis.legend(fontsize=8, ncols=2, loc="upper right")
    plt.show()


def landmarks_read(pictures, read, true) -> None:
    """True landmarks (white) and those that a reader predicts (red): {title: (3, S, S)}."""
    _, axes = plt.subplots(1, len(pictures), figsize=(1.6 * len(pictures), 1.9))
    for axis, (title, picture), points, truth in zip(axes, pictures.items(), read, true):
        lesson.draw(axis, picture, title)
        axis.plot(*truth.T, "o", color="white", markersize=4, markeredgecolor="black")
        axis.plot(*points.T, "x", color="red", markersize=5)
    plt.show()


# ------------------------------------------------------------------ 08 your own pictures


def beside(pictures, outlined=()) -> None:
    """Pictures (H, W, 3) uint8: {title: picture}; boxes [(box, color)] on the first."""
    _, axes = plt.subplots(1, len(pictures), figsize=(3 * len(pictures), 3.2))
    for axis, (title, picture) in zip(axes, pictures.items()):
        axis.imshow(picture)
        axis.set_title(title, fontsize=9)
        axis.axis("off")
    for box, color in outlined:
        lesson.outline(axes[0], box, color)
    plt.show()


def film_strips(films, shown, missed) -> None:
    """Frames of several films: {name: frames}; red titles where a face stayed visible."""
    _, axes = plt.subplots(len(films), len(shown), figsize=(1.5 * len(shown), 1.8 * len(films)))
    for row, (name, frames) in zip(axes, films.items()):
        for axis, t in zip(row, shown):
            axis.imshow(frames[t])
            color = "red" if name == "single" and t in missed else "black"
            axis.set_title(f"{name} {t}", fontsize=8, color=color)
            axis.axis("off")
    plt.show()


def box_edges(true, found, filled, smoothed) -> None:
    """Left and right edge of one face's box over a movie.

    Args: true, smoothed: (1, 4) boxes of all frames. found, filled: {frame: box (4,)}.
    """
    _, axis = plt.subplots(figsize=(9, 3.1))
    for edge in (0, 2):
        label = "" if edge else "_"  # one entry in the legend for both edges
        axis.plot([box[0, edge] for box in true], color="gray", label=f"{label}true face")
        dots = [box[edge] for box in found.values()]
        axis.plot(list(found), dots, "ko", label=f"{label}found")
        crosses = [box[edge] for box in filled.values()]
        axis.plot(list(filled), crosses, "x", color="C3", label=f"{label}filled")
        edges = [box[0, edge] for box in smoothed]
        axis.plot(edges, color="C0", label=f"{label}smoothed outward")
    axis.set(xlabel="frame", ylabel="left and right edge (px)")
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    plt.show()
