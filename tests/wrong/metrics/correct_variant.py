"""A correct metrics, written another way: plain Python loops over lists, every threshold tried,
ranks for the AUC.
"""

from dataclasses import dataclass

import numpy as np


def overlap(a, b):
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    if wide <= 0 or high <= 0:
        return 0.0
    common = wide * high
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def frame_ap(detections, truths, label, iou_threshold=0.5, convention="envelope"):
    if len(detections) != len(truths):
        raise ValueError("detections and truths: one entry a frame in both")
    if convention not in {"envelope", "act"}:
        raise ValueError("convention: envelope or act")
    waiting = {}
    for frame, truth in enumerate(truths):
        for box, kind in zip(truth["boxes"].tolist(), truth["labels"].tolist()):
            if kind == label:
                waiting.setdefault(frame, []).append(box)
    total = sum(map(len, waiting.values()))
    if not total:
        return float("nan")
    queue = [
        (score, frame, box)
        for frame, found in enumerate(detections)
        for box, kind, score in zip(
            found["boxes"].tolist(), found["labels"].tolist(), found["scores"].tolist()
        )
        if kind == label
    ]
    curve = []
    right = 0
    for seen, (_, frame, box) in enumerate(
        sorted(queue, key=lambda entry: entry[0], reverse=True), start=1
    ):
        free = waiting.get(frame, [])
        best = max(free, key=lambda other: overlap(box, other), default=None)
        if best is not None and overlap(box, best) >= iou_threshold:
            free.remove(best)
            right += 1
        curve.append((right / total, right / seen))
    area = 0.0
    at = 0.0
    height = 1.0
    for i, (recall, precision) in enumerate(curve):
        if convention == "envelope":
            area += (recall - at) * max(p for _, p in curve[i:])
        else:
            area += (recall - at) * (height + precision) / 2
        at = recall
        height = precision
    return area


def frame_map(detections, truths, classes, iou_threshold=0.5, convention="envelope"):
    ap = [frame_ap(detections, truths, 1 + c, iou_threshold, convention) for c in range(classes)]
    there = [value for value in ap if value == value]
    return (sum(there) / len(there) if there else float("nan")), np.array(ap)


@dataclass
class FoldAccuracy:
    mean: float
    std: float
    accuracies: np.ndarray
    thresholds: np.ndarray
    correct: np.ndarray


def cosine_scores(features_a, features_b, mean=0.0):
    scores = []
    if np.shape(features_a) != np.shape(features_b):
        raise ValueError("features_a and features_b differ in shape")
    for a, b in zip(np.asarray(features_a, float) - mean, np.asarray(features_b, float) - mean):
        length = np.sqrt(np.dot(a, a)) * np.sqrt(np.dot(b, b))
        scores.append(np.dot(a, b) / length if length else 0.0)
    return np.array(scores)


def best_threshold(scores, same):
    scores, same = _pairs(scores, same)
    values = sorted(set(scores.tolist()))
    widest = max((b - a for a, b in zip(values, values[1:])), default=1.0)
    cuts = [
        values[0] - widest / 2,
        *((a + b) / 2 for a, b in zip(values, values[1:])),
        values[-1] + widest / 2,
    ]
    right = [int(((scores > cut) == same).sum()) for cut in cuts]
    best = [cut for cut, count in zip(cuts, right) if count == max(right)]
    middle = sum(best) / len(best)
    return middle if ((scores > middle) == same).sum() == max(right) else best[0]


def fold_accuracy(features_a, features_b, same, folds, threshold=None):
    features_a = np.array(features_a, float)
    features_b = np.array(features_b, float)
    same = list(same)
    folds = list(folds)
    if len({len(features_a), len(features_b), len(same), len(folds)}) > 1:
        raise ValueError("features_a, features_b, same, folds: as many of each")
    if len(set(folds)) < 2:
        raise ValueError("folds: two at least")
    correct = np.zeros(len(same), bool)
    accuracies = []
    thresholds = []
    for fold in sorted(set(folds)):
        inside = [i for i, other in enumerate(folds) if other == fold]
        outside = [i for i, other in enumerate(folds) if other != fold]
        mean = (features_a[outside].mean(0) + features_b[outside].mean(0)) / 2
        cut = threshold
        if cut is None:
            cut = best_threshold(
                cosine_scores(features_a[outside], features_b[outside], mean),
                [same[i] for i in outside],
            )
        for i, score in zip(inside, cosine_scores(features_a[inside], features_b[inside], mean)):
            correct[i] = (score > cut) == bool(same[i])
        accuracies.append(sum(correct[inside]) / len(inside))
        thresholds.append(cut)
    accuracies = np.array(accuracies)
    thresholds = np.array(thresholds)
    return FoldAccuracy(
        float(np.mean(accuracies)), float(np.std(accuracies)), accuracies, thresholds, correct
    )


def _pairs(scores, same):
    scores = np.array(scores, float)
    same = np.array(same, bool)
    if len(scores) != len(same) or np.isnan(scores).any():
        raise ValueError("scores and same: as many of each, and no nan")
    return scores, same


def _both(scores, same):
    scores, same = _pairs(scores, same)
    if same.all() or not same.any():
        raise ValueError("same: both kinds are needed")
    return scores[same], scores[~same]


def auc(scores, same):
    own, other = _both(scores, same)
    return float(np.mean([(other < score).mean() + (other == score).mean() / 2 for score in own]))


def _rates(scores, same):
    own, other = _both(scores, same)
    cuts = [np.inf, *sorted({*own.tolist(), *other.tolist()}, reverse=True)]
    return [((other >= cut).mean(), (own >= cut).mean()) for cut in cuts]


def eer(scores, same):
    rates = _rates(scores, same)
    for (x0, y0), (x1, y1) in zip(rates, rates[1:]):
        if x1 + y1 >= 1:  # the line y = 1 - x is met on this piece
            share = (1 - x0 - y0) / (x1 + y1 - x0 - y0)
            return float(x0 + share * (x1 - x0))


def tar_at_far(scores, same, far=1e-3):
    if far < 0 or far > 1:
        raise ValueError("far: 0 to 1")
    return float(max(true for false, true in _rates(scores, same) if false <= far))


def rank1(gallery, gallery_ids, probe, probe_ids):
    if (
        len(gallery) != len(gallery_ids)
        or len(probe) != len(probe_ids)
        or len(gallery) == 0
        or len(probe) == 0
    ):
        raise ValueError("gallery and probe: a name for every row")
    right = 0
    for face, name in zip(np.asarray(probe, float), probe_ids):
        scores = cosine_scores(np.tile(face, (len(gallery), 1)), gallery)
        right += gallery_ids[int(scores.argmax())] == name
    return float(right / len(probe))


def bootstrap_identities(statistic, identities, n=1000, seed=0, level=0.95):
    pairs = [tuple(row) if np.ndim(row) else (row, row) for row in np.asarray(identities).tolist()]
    people = sorted({person for pair in pairs for person in pair})
    if not 0 < level < 1:
        raise ValueError("level: between 0 and 1")
    chance = np.random.RandomState(seed)
    drawn = []
    number = {person: i for i, person in enumerate(people)}
    first, second = (np.array([number[pair[side]] for pair in pairs]) for side in (0, 1))
    for _ in range(n):
        times = chance.multinomial(len(people), np.full(len(people), 1 / len(people)))
        rows = [
            np.full(times[a] * (1 if a == b else times[b]), i)
            for i, (a, b) in enumerate(zip(first, second))
        ]
        rows = np.concatenate(rows).astype(int)
        if len(rows):
            try:
                value = float(statistic(rows))
            except ValueError:
                value = np.nan
            if value == value:
                drawn.append(value)
    if not drawn:
        raise ValueError("the statistic was undefined in every draw")
    return tuple(float(np.percentile(drawn, 50 * (1 + side * level))) for side in (-1, 1))
