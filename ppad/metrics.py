"""How well: frame-mAP for the action detector, and face verification in numbers.

Paper: section 5. Action detection is scored by "standard mean Average Precision", IoU 0.5; face recognition by binary
verification on LFW with cosine similarity. Around the paper's one privacy number (verification accuracy) stand
the usual others, so that a low accuracy can be told from a broken threshold: AUC, equal error rate, true accepts at a
fixed rate of false accepts, rank-1 identification, and intervals by resampling identities.

All are pure functions of arrays; nothing here knows a network. Detection takes torch tensors, as torchvision's detectors
give them; verification takes anything numpy can read. Scores are similarities: higher means "same person".

Decided here: frame-mAP follows VOC 2010 and later ("envelope") unless the convention of the ACT detector ("act",
Kalogeiton et al. 2017) is asked for, because the paper names neither; and a class that never occurs has no AP and is
left out of the mean.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# ---------------------------------------------------------------------------------------------------------------
# Action detection: frame-mAP.
# ---------------------------------------------------------------------------------------------------------------


def frame_map(
    detections: Sequence[dict[str, Tensor]],
    truths: Sequence[dict[str, Tensor]],
    classes: int,
    iou_threshold: float = 0.5,
    convention: str = "envelope",
) -> tuple[float, np.ndarray]:
    """Mean average precision over frames (paper section 5).

    detections: one dict a frame: "boxes" (k, 4) xyxy px, "labels" (k,), "scores" (k,). truths: likewise without
    scores. Labels run from 1 to `classes`. Arguments as in `frame_ap`.
    Returns (mean, ap): ap (classes,) in [0, 1], ap[c - 1] for class c, nan where the class has no truth; the mean
    is over the others (nan if there are none).
    """
    ap = _average_precisions(detections, truths, range(1, classes + 1), iou_threshold, convention)
    present = ~np.isnan(ap)
    return (float(ap[present].mean()) if present.any() else float("nan")), ap


def frame_ap(
    detections: Sequence[dict[str, Tensor]],
    truths: Sequence[dict[str, Tensor]],
    label: int,
    iou_threshold: float = 0.5,
    convention: str = "envelope",
) -> float:
    """Average precision of one class over all frames, in [0, 1]; nan if no truth has that class.

    All the class's detections are taken by falling score (ties in the order given). One is right if, among the
    truths of its class and frame that no better detection has taken, the one it overlaps most has
    IoU >= `iou_threshold`; every other detection is a false positive, a second hit on a taken truth included.
    convention: "envelope", the area under the precision envelope, all points (VOC 2010+), or "act", the trapezoids
    under the raw precision-recall curve started at recall 0, precision 1.
    Raises ValueError if the lists differ in length or the convention is unknown.
    """
    return float(_average_precisions(detections, truths, [label], iou_threshold, convention)[0])


def _average_precisions(detections, truths, labels, iou_threshold, convention) -> np.ndarray:
    """`frame_ap` of each of `labels`, from one copy of all frames' boxes: an array as long as `labels`."""
    if len(detections) != len(truths):
        raise ValueError(
            f"detections covers {len(detections)} frames and truths {len(truths)}; give one entry a frame"
        )
    if convention not in ("envelope", "act"):
        raise ValueError(f"convention is {convention!r}; choose 'envelope' or 'act'")
    if len(truths) == 0:
        return np.full(len(labels), np.nan)
    found_frame, found_boxes, found_labels = _all_frames(detections)  # (K,), (K, 4), (K,)
    truth_frame, truth_boxes, truth_labels = _all_frames(truths)
    scores = (
        torch.cat([found["scores"] for found in detections]).detach().cpu().double().numpy()
    )  # (K,)

    ap = []
    for label in labels:
        wanted = truth_labels == label
        chosen = np.flatnonzero(found_labels == label)
        # One ranking over all frames; a stable sort keeps the order given on ties.
        chosen = chosen[np.argsort(-scores[chosen], kind="stable")]
        hits = _match(
            found_frame[chosen],
            found_boxes[chosen],
            truth_frame[wanted],
            truth_boxes[wanted],
            iou_threshold,
        )
        ap.append(_area(hits, int(wanted.sum()), convention))
    return np.array(ap)


def _all_frames(entries):
    """All frames' boxes in one list: the frame of each (K,), boxes (K, 4) in single precision or better, labels (K,)."""
    frame = np.repeat(np.arange(len(entries)), [len(entry["labels"]) for entry in entries])
    boxes = torch.cat([entry["boxes"] for entry in entries]).detach().cpu()
    boxes = boxes.to(torch.promote_types(boxes.dtype, torch.float32))
    return frame, boxes.numpy(), torch.cat([entry["labels"] for entry in entries]).cpu().numpy()


def _match(frame, boxes, truth_frame, truth_boxes, threshold) -> np.ndarray:
    """Which detections of one class hit, each truth being taken once: bool (k,).

    frame (k,) and boxes (k, 4) of the detections, best score first over all frames; of the truths (m,) and (m, 4).
    Frames do not touch each other, so round 0 lets the best detection of every frame choose, round 1 the second, ...
    """
    hits = np.zeros(len(frame), dtype=bool)
    if len(frame) == 0 or len(truth_frame) == 0:
        return hits
    # A table with one row a frame, as wide as the most truths any frame has; `free` is False in the unused rest.
    place = truth_frame, _turns(truth_frame)
    shape = max(frame.max(), truth_frame.max()) + 1, place[1].max() + 1  # (F, n)
    free, table = np.zeros(shape, dtype=bool), np.zeros((*shape, 4), truth_boxes.dtype)
    free[place], table[place] = True, truth_boxes
    iou = _iou(boxes[:, None], table[frame])  # (k, n)

    turns = _turns(frame)
    for rows in np.split(np.argsort(turns, kind="stable"), np.cumsum(np.bincount(turns))[:-1]):
        at = frame[rows]  # (r,) all different: one detection a frame
        best = np.argmax(np.where(free[at], iou[rows], -1.0), axis=1)
        hits[rows] = free[at, best] & (iou[rows, best] >= threshold)
        free[at, best] &= ~hits[rows]
    return hits


def _turns(frame):
    """How many entries before this one have the same frame: (n,) -> (n,), so 0, 1, 2, ... within each frame."""
    by_frame, count = np.argsort(frame, kind="stable"), np.bincount(frame)
    first = np.cumsum(count) - count  # where each frame begins in by_frame
    turns = np.empty_like(frame)
    turns[by_frame] = np.arange(len(frame)) - first[frame[by_frame]]
    return turns


def _iou(a, b):
    """Intersection over union of xyxy boxes (..., 4), pair by pair; two boxes without area have none: 0."""
    overlap = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])  # (..., 2)
    common = overlap.clip(min=0).prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


def _area(hits, positives, convention) -> float:
    """Area under the precision-recall curve: hits (k,) bool by falling score, `positives` truths; nan without truths."""
    if positives == 0:
        return float("nan")
    true_positives = np.cumsum(hits)
    recall = true_positives / positives  # (k,)
    precision = true_positives / np.arange(1, len(hits) + 1)  # (k,)
    if convention == "act":
        recall, precision = np.r_[0.0, recall], np.r_[1.0, precision]
        return float((np.diff(recall) * (precision[1:] + precision[:-1]) / 2).sum())
    envelope = np.maximum.accumulate(precision[::-1])[
        ::-1
    ]  # best precision at this recall or a higher one
    return float((np.diff(recall, prepend=0.0) * envelope).sum())


# ---------------------------------------------------------------------------------------------------------------
# Face verification at a threshold (LFW's ten folds).
# ---------------------------------------------------------------------------------------------------------------


@dataclass
class FoldAccuracy:
    """Verification accuracy in [0, 1]: mean and standard deviation over folds, each fold's accuracy and threshold
    (both (folds,)), and which pairs were judged right by their fold's threshold ((P,) bool)."""

    mean: float
    std: float
    accuracies: np.ndarray
    thresholds: np.ndarray
    correct: np.ndarray


def cosine_scores(
    features_a: np.ndarray, features_b: np.ndarray, mean: np.ndarray | float = 0.0
) -> np.ndarray:
    """Cosine similarity of each pair of rows, (P, d) and (P, d) -> (P,) in [-1, 1], after subtracting `mean`.

    A feature that equals the mean has no direction; its similarity is 0.
    """
    a, b = np.asarray(features_a, np.float64) - mean, np.asarray(features_b, np.float64) - mean
    if a.shape != b.shape or a.ndim != 2:
        raise ValueError(
            f"features_a is {a.shape} and features_b {b.shape}; give two (pairs, d) arrays of one shape"
        )
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)  # (P,)
    return np.divide((a * b).sum(1), norms, out=np.zeros(len(a)), where=norms > 0)


def best_threshold(scores: np.ndarray, same: np.ndarray) -> float:
    """The threshold t that makes "score > t means same" right most often; the mean of the candidates that tie.

    scores (P,), same (P,) bool. Candidates lie below the lowest score, midway between neighbouring distinct scores,
    and above the highest: every way of splitting the pairs, once (SphereFace's evaluation tries a fixed grid of
    1/10,000 steps instead). The outer two lie as far out as half the widest gap.
    """
    scores, same = _scores_and_same(scores, same)
    values, place = np.unique(scores, return_inverse=True)  # (v,) rising; (P,)
    # Raising the threshold past a value gains its different pairs and loses its same pairs.
    change = np.bincount(place, weights=np.where(same, -1.0, 1.0), minlength=len(values))  # (v,)
    correct = np.r_[same.sum(), same.sum() + np.cumsum(change)]  # (v + 1,)
    gaps = np.diff(values)
    margin = gaps.max() / 2 if len(gaps) else 0.5
    candidates = np.r_[values[0] - margin, values[:-1] + gaps / 2, values[-1] + margin]  # (v + 1,)
    ties = np.flatnonzero(correct == correct.max())
    threshold = float(candidates[ties].mean())
    # Ties need not be neighbours, so their mean can fall where accuracy is lower; then the middle tie stands in.
    if np.sum((scores > threshold) == same) < correct.max():
        threshold = float(candidates[ties[len(ties) // 2]])
    return threshold


def fold_accuracy(
    features_a: np.ndarray,
    features_b: np.ndarray,
    same: np.ndarray,
    folds: np.ndarray,
    threshold: float | None = None,
) -> FoldAccuracy:
    """Verification accuracy by LFW's protocol, as SphereFace's original evaluation runs it (paper section 5).

    features_a, features_b: (P, d), the two faces of each pair. same: (P,) bool. folds: (P,) the fold of each pair,
    any integers. For each fold, everything is fitted on the other folds: the mean feature that is subtracted, and
    the threshold (`best_threshold`) on the cosine similarity of what remains.
    threshold: a threshold fitted elsewhere, for instance on the original faces, to be used in every fold; the mean
    feature is then still that of the other folds. (The paper does not say which of the two its numbers use.)
    Raises ValueError for shapes that do not agree or fewer than two folds.
    """
    features_a, features_b = np.asarray(features_a, np.float64), np.asarray(features_b, np.float64)
    same, folds = np.asarray(same, bool), np.asarray(folds)
    if not len(features_a) == len(features_b) == len(same) == len(folds):
        raise ValueError(
            "features_a, features_b, same and folds differ in length; give one row a pair in each"
        )
    names = np.unique(folds)
    if len(names) < 2:
        raise ValueError(
            "folds names fewer than two folds; the threshold must be fitted on pairs that are not tested"
        )
    accuracies, thresholds, correct = [], [], np.zeros(len(same), bool)
    for name in names:
        test = folds == name
        mean = np.concatenate([features_a[~test], features_b[~test]]).mean(0)  # (d,)
        scores = cosine_scores(features_a, features_b, mean)  # (P,)
        fitted = best_threshold(scores[~test], same[~test]) if threshold is None else threshold
        correct[test] = (scores[test] > fitted) == same[test]
        accuracies.append(correct[test].mean())
        thresholds.append(fitted)
    accuracies, thresholds = np.array(accuracies), np.array(thresholds)
    return FoldAccuracy(
        float(accuracies.mean()), float(accuracies.std()), accuracies, thresholds, correct
    )


# ---------------------------------------------------------------------------------------------------------------
# Face verification at all thresholds, and identification.
# ---------------------------------------------------------------------------------------------------------------


def auc(scores: np.ndarray, same: np.ndarray) -> float:
    """Area under the ROC curve in [0, 1]: the chance that a same pair outscores a different one, a tie counting half.

    scores (P,), same (P,) bool. Raises ValueError unless both kinds of pair are there.
    """
    false_accepts, true_accepts = _roc(scores, same)
    return float((np.diff(false_accepts) * (true_accepts[1:] + true_accepts[:-1]) / 2).sum())


def eer(scores: np.ndarray, same: np.ndarray) -> float:
    """Equal error rate in [0, 1]: where the false accept rate meets the false reject rate, on the ROC curve drawn
    with straight lines between its points. Arguments as in `auc`."""
    false_accepts, true_accepts = _roc(scores, same)
    difference = false_accepts - (1 - true_accepts)  # from -1 (reject all) rising to 1 (accept all)
    after = int(np.argmax(difference >= 0))
    before = after - 1
    share = -difference[before] / (difference[after] - difference[before])
    return float(false_accepts[before] + share * (false_accepts[after] - false_accepts[before]))


def tar_at_far(scores: np.ndarray, same: np.ndarray, far: float = 1e-3) -> float:
    """True accept rate in [0, 1] at the lowest threshold whose false accept rate is at most `far`.

    With N different pairs, rates between multiples of 1/N cannot be told apart: below 1/N this is the rate with no
    false accept at all. Arguments as in `auc`.
    """
    if not 0 <= far <= 1:
        raise ValueError(f"far is {far}; give a rate from 0 to 1")
    false_accepts, true_accepts = _roc(scores, same)
    return float(true_accepts[false_accepts <= far].max())


def rank1(
    gallery: np.ndarray, gallery_ids: np.ndarray, probe: np.ndarray, probe_ids: np.ndarray
) -> float:
    """Identification rate in [0, 1]: how often a probe's nearest gallery face, by cosine, has the probe's identity.

    gallery (G, d), gallery_ids (G,), probe (Q, d), probe_ids (Q,). The first of equal neighbours wins. Raises
    ValueError for lengths that do not agree or an empty gallery or probe.
    """
    gallery, probe = np.asarray(gallery, np.float64), np.asarray(probe, np.float64)
    gallery_ids, probe_ids = np.asarray(gallery_ids), np.asarray(probe_ids)
    if (
        len(gallery) != len(gallery_ids)
        or len(probe) != len(probe_ids)
        or not len(gallery)
        or not len(probe)
    ):
        raise ValueError("gallery and probe each need one identity a row and at least one row")
    # A probe's own length does not change its order of neighbours, so only the gallery is normalised.
    norms = np.linalg.norm(gallery, axis=1, keepdims=True)  # (G, 1)
    gallery = np.divide(gallery, norms, out=np.zeros_like(gallery), where=norms > 0)
    nearest = np.argmax(probe @ gallery.T, axis=1)  # (Q,)
    return float(np.mean(gallery_ids[nearest] == probe_ids))


def _scores_and_same(scores: np.ndarray, same: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores, same = np.asarray(scores, np.float64), np.asarray(same, bool)
    if scores.ndim != 1 or scores.shape != same.shape or len(scores) == 0:
        raise ValueError(
            f"scores is {scores.shape} and same {same.shape}; give two (pairs,) arrays of one length"
        )
    if not np.isfinite(scores).all():
        raise ValueError("scores holds nan or infinity; check the features they came from")
    return scores, same


def _roc(scores: np.ndarray, same: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true accept rates, (v + 1,) each, from "accept nothing" down through the v distinct scores."""
    scores, same = _scores_and_same(scores, same)
    if same.all() or not same.any():
        raise ValueError("same holds one kind of pair only; give same and different pairs")
    values, place = np.unique(-scores, return_inverse=True)  # falling score; ties share a place
    accepted_same = np.cumsum(np.bincount(place, weights=same, minlength=len(values)))
    accepted_different = np.cumsum(np.bincount(place, weights=~same, minlength=len(values)))
    return np.r_[0.0, accepted_different / (~same).sum()], np.r_[0.0, accepted_same / same.sum()]


# ---------------------------------------------------------------------------------------------------------------
# Uncertainty.
# ---------------------------------------------------------------------------------------------------------------


def bootstrap_identities(
    statistic: Callable[[np.ndarray], float],
    identities: np.ndarray,
    n: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """A percentile interval for a statistic of pairs (or of single samples), by resampling identities.

    Pairs that share a person are not independent, so people are drawn with replacement, not pairs. In one draw a
    person drawn w times counts w times, and a pair as often as its people can form it: w for a pair of one person
    (or a single sample), w_a * w_b for a pair of two.

    statistic: takes an index array (m,) into the pairs, repeats included, and returns a number.
    identities: (P, 2), the two people of each pair, or (P,) for single samples; any labels.
    n: draws. seed: of the draws. level: coverage of the interval, in (0, 1).
    Returns (low, high). A draw with no pair, or whose statistic is nan or raises ValueError (one kind of pair only),
    says nothing and is left out. Raises ValueError if every draw is.
    """
    identities = np.asarray(identities)
    if identities.ndim == 1:
        identities = np.stack([identities, identities], axis=1)
    if identities.ndim != 2 or identities.shape[1] != 2:
        raise ValueError(f"identities is {identities.shape}; give (pairs, 2) or (samples,)")
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; give a coverage between 0 and 1")
    people, place = np.unique(identities, return_inverse=True)
    first, second = place.reshape(-1, 2).T  # (P,) each
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(n):
        weight = np.bincount(rng.integers(len(people), size=len(people)), minlength=len(people))
        repeats = np.where(first == second, weight[first], weight[first] * weight[second])  # (P,)
        if repeats.any():
            try:
                drawn.append(float(statistic(np.repeat(np.arange(len(repeats)), repeats))))
            except ValueError:
                continue
    drawn = np.array(drawn)
    drawn = drawn[~np.isnan(drawn)]
    if len(drawn) == 0:
        raise ValueError("statistic gave no number in any draw; it needs more identities")
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
