"""Metrics: frame-mAP of the action detector, and face verification.

Paper: section 5. Action detection is scored by "standard mean Average Precision" at IoU 0.5, face
recognition by verification accuracy on LFW with cosine similarity. More measures (ours) tell a low
accuracy from a badly fitted threshold: AUC, equal error rate, the true accept rate at a fixed false
accept rate, rank-1 identification, and intervals by resampling identities.

Detection takes torch tensors as torchvision's detectors return them; verification takes arrays, or
lists numpy can convert. Scores are similarities: higher means "same person".
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou


def frame_map(
    detections: Sequence[dict[str, Tensor]],
    truths: Sequence[dict[str, Tensor]],
    classes: int,
    iou_threshold: float = 0.5,
    convention: str = "envelope",
) -> tuple[float, np.ndarray]:
    """Mean average precision over frames (paper section 5).

    detections: one dict per frame: "boxes" (k, 4) xyxy px, "labels" (k,), "scores" (k,). truths:
    the same without scores. Labels run from 1 to `classes`. Other arguments as in `frame_ap`.
    Returns (mean, ap): ap (classes,) in [0, 1], ap[c - 1] for class c, nan for a class without
    truths; the mean is over the other classes (nan if there are none).
    """
    labels = range(1, classes + 1)
    ap = [frame_ap(detections, truths, label, iou_threshold, convention) for label in labels]
    ap = np.array(ap)  # (classes,)
    present = ap[~np.isnan(ap)]
    return float(present.mean()) if len(present) else float("nan"), ap


def frame_ap(
    detections: Sequence[dict[str, Tensor]],
    truths: Sequence[dict[str, Tensor]],
    label: int,
    iou_threshold: float = 0.5,
    convention: str = "envelope",
) -> float:
    """Average precision of one class over all frames, in [0, 1]; nan if no truth has that class.

    The class's detections are matched by falling score (ties in the order given). A detection is a
    hit if, among the truths of its class and frame that no better detection has matched, the one it
    overlaps most has IoU >= `iou_threshold`. All others are false positives, including a second one
    on a matched truth.
    convention (not in the paper): "envelope", the area under the precision envelope, all points
    (VOC 2010+), or "act", trapezoids under the raw precision-recall curve from recall 0,
    precision 1 (the ACT detector, Kalogeiton et al. 2017).
    Raises ValueError if the lists differ in length or the convention is unknown.
    """
    if len(detections) != len(truths):
        raise ValueError(f"detections has {len(detections)} frames, truths has {len(truths)}")
    if convention not in ("envelope", "act"):
        raise ValueError(f"convention is {convention!r}; choose 'envelope' or 'act'")
    positives = 0
    scores = []
    hits = []
    for frame, truth in zip(detections, truths):
        chosen = frame["labels"] == label
        targets = _precise(truth["boxes"][truth["labels"] == label])  # (m, 4)
        scores.append(_precise(frame["scores"][chosen]).numpy())  # (k,)
        hits.append(_match(_precise(frame["boxes"][chosen]), scores[-1], targets, iou_threshold))
        positives += len(targets)
    if positives == 0:
        return float("nan")
    # One ranking over all frames; a stable sort keeps tied scores in order.
    ranking = np.argsort(-np.concatenate(scores), kind="stable")  # (K,)
    true_positives = np.cumsum(np.concatenate(hits)[ranking])  # (K,)
    recall = true_positives / positives  # (K,)
    precision = true_positives / np.arange(1, len(ranking) + 1)  # (K,)
    if convention == "act":
        return _trapezoids(np.r_[0.0, recall], np.r_[1.0, precision])
    # The best precision at this recall or a higher one.
    envelope = np.maximum.accumulate(precision[::-1])[::-1]  # (K,)
    return float((np.diff(recall, prepend=0.0) * envelope).sum())


def _precise(tensor: Tensor) -> Tensor:
    """On the CPU in float32 or better: half precision is too coarse for areas."""
    return tensor.detach().cpu().to(torch.promote_types(tensor.dtype, torch.float32))


def _match(boxes, scores, truths, threshold) -> np.ndarray:
    """Which detections of one class in one frame are hits; each truth is matched once.

    boxes (k, 4), scores (k,), truths (m, 4) -> bool (k,).
    """
    hits = np.zeros(len(boxes), dtype=bool)
    if len(truths) == 0:
        return hits
    iou = box_iou(boxes, truths).nan_to_num(0).numpy()  # (k, m); 0 for two boxes without area
    for i in np.argsort(-scores, kind="stable"):
        best = iou[i].argmax()
        hits[i] = iou[i, best] >= threshold
        if hits[i]:
            iou[:, best] = -1.0  # matched
    return hits


def _trapezoids(x, y) -> float:
    """Area under straight lines through the points (x, y), both (n,)."""
    return float((np.diff(x) * (y[1:] + y[:-1]) / 2).sum())


@dataclass
class FoldAccuracy:
    """Verification accuracy in [0, 1] over folds."""

    mean: float  # of `accuracies`: every fold has the same weight
    std: float  # population standard deviation over the folds
    accuracies: np.ndarray  # (folds,)
    thresholds: np.ndarray  # (folds,), the threshold used to test each fold
    correct: np.ndarray  # (P,) bool: pairs that their fold's threshold classifies correctly


def cosine_scores(
    features_a: np.ndarray, features_b: np.ndarray, mean: np.ndarray | float = 0.0
) -> np.ndarray:
    """Cosine similarity of each pair of rows, after subtracting `mean`.

    features_a, features_b: (P, d). Returns (P,) in [-1, 1]; 0 where a feature equals the mean and
    has no direction. Raises ValueError unless both have one shape (P, d).
    """
    a = np.asarray(features_a, np.float64) - mean
    b = np.asarray(features_b, np.float64) - mean
    if a.shape != b.shape or a.ndim != 2:
        raise ValueError(f"features_a is {a.shape} and features_b {b.shape}; give (pairs, d) twice")
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)  # (P,)
    return np.divide((a * b).sum(1), norms, out=np.zeros(len(a)), where=norms > 0)


def best_threshold(scores: np.ndarray, same: np.ndarray) -> float:
    """The threshold t for which "score > t means same" is right for the most pairs.

    scores (P,), same (P,) bool. Candidates lie below the lowest score, midway between neighboring
    distinct scores, and above the highest, so each split of the pairs is tried once (SphereFace
    tries a fixed grid of 1/10,000 steps). The outer two lie half the widest gap outside.
    Returns the mean of the candidates that tie for the best.
    """
    scores, same = _scores_and_same(scores, same)
    values, index = np.unique(scores, return_inverse=True)  # (v,) rising; (P,)
    # Raising the threshold past a value gains its different pairs and loses its same pairs.
    change = np.bincount(index, weights=np.where(same, -1.0, 1.0), minlength=len(values))  # (v,)
    correct = np.r_[same.sum(), same.sum() + np.cumsum(change)]  # (v + 1,)
    gaps = np.diff(values)
    margin = gaps.max() / 2 if len(gaps) else 0.5
    candidates = np.r_[values[0] - margin, values[:-1] + gaps / 2, values[-1] + margin]  # (v + 1,)
    ties = np.flatnonzero(correct == correct.max())
    threshold = float(candidates[ties].mean())
    # Ties need not be adjacent, so accuracy at their mean can be lower; then take the middle tie.
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
    """Verification accuracy by LFW's protocol, as in SphereFace's evaluation (paper section 5).

    features_a, features_b: (P, d), the two faces of each pair. same: (P,) bool. folds: (P,) the
    fold of each pair, any integers. For each fold, everything is fitted on the other folds: the
    mean feature that is subtracted, and the threshold (`best_threshold`) on cosine similarity.
    threshold: a fixed one for all folds, fitted elsewhere, for instance on the original faces; the
    mean feature still comes from the other folds. (The paper does not say which of the two its
    numbers use.) Raises ValueError for shapes that do not agree or fewer than two folds.
    """
    features = np.stack([features_a, features_b]).astype(np.float64)  # (2, P, d)
    same = np.asarray(same, bool)
    folds = np.asarray(folds)
    if not features.shape[1] == len(same) == len(folds):
        raise ValueError("features_a, features_b, same and folds: give one row per pair in each")
    names = np.unique(folds)
    if len(names) < 2:
        raise ValueError("folds names fewer than two folds")
    accuracies = np.zeros(len(names))
    thresholds = np.zeros(len(names))
    correct = np.zeros(len(same), bool)
    for i, name in enumerate(names):
        test = folds == name
        mean = np.concatenate(features[:, ~test]).mean(0)  # (d,)
        scores = cosine_scores(*features, mean)  # (P,)
        fitted = best_threshold(scores[~test], same[~test]) if threshold is None else threshold
        correct[test] = (scores[test] > fitted) == same[test]
        accuracies[i] = correct[test].mean()
        thresholds[i] = fitted
    mean = float(accuracies.mean())
    return FoldAccuracy(mean, float(accuracies.std()), accuracies, thresholds, correct)


def auc(scores: np.ndarray, same: np.ndarray) -> float:
    """Area under the ROC curve in [0, 1]: the probability that a same pair scores higher than a
    different one; ties count half.

    scores (P,), same (P,) bool. Raises ValueError unless both kinds of pair occur.
    """
    false_accepts, true_accepts = _roc(scores, same)
    return _trapezoids(false_accepts, true_accepts)


def eer(scores: np.ndarray, same: np.ndarray) -> float:
    """Equal error rate in [0, 1]: where the false accept rate equals the false reject rate, on
    the ROC curve with straight lines between its points. Arguments as in `auc`.
    """
    false_accepts, true_accepts = _roc(scores, same)
    difference = false_accepts - (1 - true_accepts)  # from -1 (reject all) rising to 1 (accept all)
    after = int(np.argmax(difference >= 0))
    before = after - 1
    share = -difference[before] / (difference[after] - difference[before])
    return float(false_accepts[before] + share * (false_accepts[after] - false_accepts[before]))


def tar_at_far(scores: np.ndarray, same: np.ndarray, far: float = 1e-3) -> float:
    """True accept rate in [0, 1] at the lowest threshold whose false accept rate is at most `far`.

    With N different pairs, rates are multiples of 1/N: for far < 1/N this is the rate without any
    false accept. Arguments as in `auc`. Raises ValueError for a rate outside [0, 1].
    """
    if not 0 <= far <= 1:
        raise ValueError(f"far is {far}; give a rate from 0 to 1")
    false_accepts, true_accepts = _roc(scores, same)
    return float(true_accepts[false_accepts <= far].max())


def rank1(
    gallery: np.ndarray, gallery_ids: np.ndarray, probe: np.ndarray, probe_ids: np.ndarray
) -> float:
    """Identification rate in [0, 1]: the share of probes whose nearest gallery face, by cosine,
    has the probe's identity.

    gallery (G, d), gallery_ids (G,), probe (Q, d), probe_ids (Q,). Of equal neighbors the first
    counts. Raises ValueError for lengths that do not agree or an empty gallery or probe.
    """
    gallery = np.asarray(gallery, np.float64)
    probe = np.asarray(probe, np.float64)
    lengths_agree = len(gallery) == len(gallery_ids) and len(probe) == len(probe_ids)
    if not lengths_agree or len(gallery) == 0 or len(probe) == 0:
        raise ValueError("gallery and probe each need one identity per row and at least one row")
    # A probe's length does not change which face is nearest: only the gallery is normalized.
    norms = np.linalg.norm(gallery, axis=1, keepdims=True)  # (G, 1)
    gallery = np.divide(gallery, norms, out=np.zeros_like(gallery), where=norms > 0)
    nearest = np.argmax(probe @ gallery.T, axis=1)  # (Q,)
    return float(np.mean(np.asarray(gallery_ids)[nearest] == np.asarray(probe_ids)))


def _scores_and_same(scores: np.ndarray, same: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores = np.asarray(scores, np.float64)
    same = np.asarray(same, bool)
    if scores.ndim != 1 or scores.shape != same.shape or len(scores) == 0:
        raise ValueError(f"scores is {scores.shape} and same {same.shape}; give (pairs,) twice")
    if not np.isfinite(scores).all():
        raise ValueError("scores holds nan or infinity; check the features they came from")
    return scores, same


def _roc(scores: np.ndarray, same: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true accept rates, (v + 1,) each, from "accept nothing" down through the v
    distinct scores."""
    scores, same = _scores_and_same(scores, same)
    if same.all() or not same.any():
        raise ValueError("same holds one kind of pair only; give same and different pairs")
    values, index = np.unique(-scores, return_inverse=True)  # falling score; ties share an index
    true_accepts = np.cumsum(np.bincount(index, weights=same, minlength=len(values)))
    false_accepts = np.cumsum(np.bincount(index, weights=~same, minlength=len(values)))
    return np.r_[0.0, false_accepts / (~same).sum()], np.r_[0.0, true_accepts / same.sum()]


def bootstrap_identities(
    statistic: Callable[[np.ndarray], float],
    identities: np.ndarray,
    n: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """A percentile interval for a statistic of pairs (or single samples), by resampling identities.

    Pairs that share a person are not independent, so people are drawn with replacement, not pairs.
    In one draw, a pair of one person (or a single sample) drawn w times is repeated w times; a pair
    of people drawn w_a and w_b times is repeated w_a * w_b times.

    statistic: takes an index array (m,) into the pairs, repeats included, and returns a number.
    identities: (P, 2), the two people of each pair, or (P,) for single samples; any labels.
    n: number of draws. seed: their random seed. level: coverage of the interval, in (0, 1).
    Returns (low, high). Draws without a pair, or whose statistic is nan or raises ValueError (one
    kind of pair only), are left out. Raises ValueError if no draw remains.
    """
    identities = np.asarray(identities)
    if identities.ndim == 1:
        identities = np.stack([identities, identities], axis=1)
    people, index = np.unique(identities, return_inverse=True)
    first, second = index.reshape(identities.shape).T  # (P,) each
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(n):
        weight = np.bincount(rng.integers(len(people), size=len(people)), minlength=len(people))
        repeats = np.where(first == second, weight[first], weight[first] * weight[second])  # (P,)
        if repeats.any():
            with suppress(ValueError):
                values.append(float(statistic(np.repeat(np.arange(len(repeats)), repeats))))
    if np.isnan(values).all():
        raise ValueError("statistic gave no number in any draw; it needs more identities")
    low, high = np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
