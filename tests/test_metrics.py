"""Metrics against hand computation, brute force and closed forms."""

import numpy as np
import pytest
import torch

from ppad.metrics import (
    auc,
    best_threshold,
    bootstrap_identities,
    cosine_scores,
    eer,
    fold_accuracy,
    frame_ap,
    frame_map,
    rank1,
    tar_at_far,
)

BOX = [0.0, 0.0, 10.0, 10.0]
FAR = [50.0, 50.0, 60.0, 60.0]


def truth(*boxes, labels=None):
    return {
        "boxes": torch.tensor(boxes).reshape(-1, 4),
        "labels": torch.tensor(labels or [1] * len(boxes), dtype=torch.long),
    }


def found(*boxes_scores, labels=None):
    """Detections of one frame from (box, score) pairs."""
    result = truth(*[box for box, _ in boxes_scores], labels=labels)
    return result | {"scores": torch.tensor([score for _, score in boxes_scores])}


# ------------------------------------------------------------------ frame-mAP


@pytest.mark.rubric(
    "average precision by hand, in both conventions",
    points=4,
    hint="envelope: at each recall the best precision at this recall or a higher one (run the "
    "maximum from the right), times the step in recall. act: trapezoids under the raw curve, "
    "begun at recall 0, precision 1. Sort all frames' detections by falling score, ties in the "
    "order given; recall divides by all truths, found or not.",
)
def test_ap_by_hand_in_both_conventions():
    # Four truths; by falling score: hit, miss, hit, miss, hit. Recall 1/4, 1/4, 2/4, 2/4, 3/4;
    # precision 1, 1/2, 2/3, 1/2, 3/5.
    truths = [truth(BOX), truth(BOX), truth(BOX), truth(BOX)]
    detections = [
        found((BOX, 0.9), (FAR, 0.8)),
        found((BOX, 0.7), (FAR, 0.6)),
        found((BOX, 0.5)),
        found(),
    ]
    assert frame_ap(detections, truths, 1) == pytest.approx((1 + 2 / 3 + 3 / 5) / 4)
    by_trapezoid = ((1 + 1) / 2 + (1 / 2 + 2 / 3) / 2 + (1 / 2 + 3 / 5) / 2) / 4
    assert frame_ap(detections, truths, 1, convention="act") == pytest.approx(by_trapezoid)


@pytest.mark.rubric("average precision by hand, in both conventions")
def test_envelope_lifts_an_early_mistake():
    # miss, hit, hit on two truths: raw precision 0, 1/2, 2/3; the envelope is 2/3 throughout.
    truths = [truth(BOX), truth(BOX)]
    detections = [found((FAR, 0.9), (BOX, 0.8)), found((BOX, 0.7))]
    assert frame_ap(detections, truths, 1) == pytest.approx(2 / 3)
    assert frame_ap(detections, truths, 1, convention="act") == pytest.approx(
        (0 + 1 / 2) / 4 + (1 / 2 + 2 / 3) / 4
    )


@pytest.mark.rubric(
    "a truth is matched once, by the best score",
    points=3,
    hint="Is one truth matched twice? Mark a truth as taken; a second hit on it is a false "
    "positive. Take detections by falling score, not in the order given; each may take the best "
    "truth that is still free.",
)
def test_truth_is_matched_once():
    # One truth hit twice, a second truth in another frame found last: hit, false positive, hit.
    truths = [truth(BOX), truth(BOX)]
    detections = [found((BOX, 0.9), (BOX, 0.8)), found((BOX, 0.7))]
    assert frame_ap(detections, truths, 1) == pytest.approx((1 + 2 / 3) / 2)


@pytest.mark.rubric("a truth is matched once, by the best score")
def test_best_score_takes_the_truth_whatever_the_order():
    # Given worst first: the 0.9 detection must take the truth, so precision is 1 up to full recall.
    assert frame_ap([found((BOX, 0.1), (BOX, 0.9))], [truth(BOX)], 1) == pytest.approx(1)


@pytest.mark.rubric("a truth is matched once, by the best score")
def test_two_neighbors_each_take_their_own_truth():
    beside = [4.0, 0.0, 14.0, 10.0]
    detections = [found((BOX, 0.9), (beside, 0.8))]
    assert frame_ap(detections, [truth(beside, BOX)], 1) == pytest.approx(1)


@pytest.mark.rubric("a truth is matched once, by the best score")
def test_second_choice_counts_when_the_first_is_taken():
    # The second detection overlaps BOX most (IoU 9.5 / 10.5), which is taken, but also its neighbor
    # (8.5 / 11.5).
    near = [0.5, 0.0, 10.5, 10.0]
    neighbor = [2.0, 0.0, 12.0, 10.0]
    assert frame_ap([found((BOX, 0.9), (near, 0.8))], [truth(BOX, neighbor)], 1) == pytest.approx(1)


@pytest.mark.parametrize("width, expected", [(5.0, 1.0), (4.99, 0.0)])
@pytest.mark.rubric(
    "what counts as a hit",
    points=2,
    hint="IoU of exactly the threshold counts (>=, not >); widths are x2 - x1, no + 1; a truth of "
    "another frame or of another class does not count.",
)
def test_iou_of_exactly_one_half_counts(width, expected):
    # A box of the same height inside a 10 px wide truth has IoU width / 10.
    assert frame_ap([found(([0.0, 0.0, width, 10.0], 0.9))], [truth(BOX)], 1) == expected


@pytest.mark.rubric("what counts as a hit")
def test_detection_in_another_frame_or_class_is_false():
    assert frame_ap([found(), found((BOX, 0.9))], [truth(BOX), truth()], 1) == 0
    assert frame_ap([found((BOX, 0.9), labels=[2])], [truth(BOX)], 1) == 0


@pytest.mark.rubric("average precision by hand, in both conventions")
def test_ties_across_frames_keep_the_order_given():
    hit_first = frame_ap([found((BOX, 0.5)), found((FAR, 0.5))], [truth(BOX), truth()], 1)
    miss_first = frame_ap([found((FAR, 0.5)), found((BOX, 0.5))], [truth(), truth(BOX)], 1)
    assert (hit_first, miss_first) == (1.0, 0.5)


@pytest.mark.rubric("average precision by hand, in both conventions")
def test_all_frames_share_one_ranking():
    # The second frame's hit has the higher score, so it comes before the first frame's miss.
    assert frame_ap([found((FAR, 0.3)), found((BOX, 0.8))], [truth(), truth(BOX)], 1) == 1.0


@pytest.mark.rubric(
    "the mean is over the classes that occur",
    points=2,
    hint="Class 0 is the background: classes run from 1 to `classes`, ap[c - 1] belongs to class "
    "c. A class without truth is nan and left out of the mean; as 0 it would lower it. Are "
    "`iou_threshold` and `convention` passed on, or is one of them ignored?",
)
def test_class_without_truth_is_left_out_of_the_mean():
    truths = [truth(BOX, FAR, labels=[1, 2])]
    detections = [found((BOX, 0.9), (BOX, 0.8), labels=[1, 3])]
    mean, ap = frame_map(detections, truths, classes=3)
    np.testing.assert_array_equal(ap, [1.0, 0.0, np.nan])
    assert mean == 0.5
    assert np.isnan(frame_map([found()], [truth()], classes=2)[0])


@pytest.mark.parametrize(
    "words, expected",
    [
        ((), (1 + 2 / 3) / 2),  # hit, a second one on the same truth, hit
        ((0.7,), 2 / 3),  # miss, hit, hit
        ((0.7, "act"), (0 + 1 / 2) / 4 + (1 / 2 + 2 / 3) / 4),
    ],
)
@pytest.mark.rubric("the mean is over the classes that occur")
def test_the_mean_is_at_the_threshold_and_by_the_convention_asked_for(words, expected):
    short = [0.0, 0.0, 6.0, 10.0]  # IoU 0.6 with BOX
    detections = [found((short, 0.9), (BOX, 0.8)), found((BOX, 0.7))]
    mean, ap = frame_map(detections, [truth(BOX), truth(BOX)], 1, *words)
    assert mean == ap[0] == pytest.approx(expected)


@pytest.mark.rubric("average precision by hand, in both conventions")
def test_frame_ap_rejects_bad_input():
    with pytest.raises(ValueError, match="detections"):
        frame_ap([found()], [truth(), truth()], 1)
    with pytest.raises(ValueError, match="convention"):
        frame_ap([found()], [truth(BOX)], 1, convention="coco")


# ------------------------------------------------------------------ thresholds


@pytest.mark.rubric(
    "cosine scores and the best threshold",
    points=2,
    hint="Subtract the mean before the lengths are taken; a zero feature scores 0, not nan, but a "
    "short one has a direction. Candidates for the threshold lie between neighboring distinct "
    "scores and outside both ends. Return the mean of the best, not the first of them; where the "
    "mean of the best is worse than they are, one of them.",
    helper="cosine_scores best_threshold",
)
def test_cosine_scores():
    a = np.array([[2.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    b = np.array([[0.5, 0.0], [-3.0, 3.0], [1.0, 0.0]])
    np.testing.assert_allclose(cosine_scores(a, b), [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(cosine_scores(a[:1], b[:1], mean=np.array([1.0, 0.0])), [-1])


@pytest.mark.parametrize("length", [1e-3, 1e-6, 1e6])
@pytest.mark.rubric("cosine scores and the best threshold")
def test_the_cosine_does_not_depend_on_the_lengths(length):
    a = np.array([[3.0, 4.0]]) * length
    b = np.array([[4.0, 3.0]]) * length
    np.testing.assert_allclose(cosine_scores(a, b), [24 / 25])


@pytest.mark.rubric("cosine scores and the best threshold")
def test_best_threshold_by_hand():
    assert best_threshold([0.1, 0.3, 0.7, 0.9], [False, False, True, True]) == pytest.approx(0.5)
    # Splits at 0.2 and at 0.6 are both right three times out of four; 0.4 is wrong twice. Their
    # mean, 0.4, is the worse split, so one of the ties is returned instead.
    assert best_threshold([0.1, 0.3, 0.5, 0.7], [False, True, False, True]) in (
        pytest.approx(0.2),
        pytest.approx(0.6),
    )
    # Splits at 0.2 and at 0.65 are both right three times out of four, and so is their mean.
    tied = best_threshold([0.1, 0.3, 0.4, 0.9], [False, True, False, True])
    assert tied == pytest.approx((0.2 + 0.65) / 2)
    # All pairs alike: accept everything, or nothing.
    assert best_threshold([0.1, 0.2], [True, True]) < 0.1
    assert best_threshold([0.1, 0.2], [False, False]) > 0.2


@pytest.mark.rubric("cosine scores and the best threshold")
def test_best_threshold_equals_exhaustive_search():
    rng = np.random.default_rng(0)
    for _ in range(50):
        same = rng.random(30) < 0.5
        scores = np.round(rng.normal(same * 0.7), 1)  # rounded, so that scores tie
        cuts = np.r_[scores.min() - 1, np.unique(scores)]
        best = max(np.mean((scores > cut) == same) for cut in cuts)
        assert np.mean((scores > best_threshold(scores, same)) == same) == best


def angles(degrees):
    """Unit vectors whose cosine with (1, 0) is that of the angle."""
    radians = np.deg2rad(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], 1)


@pytest.mark.rubric(
    "a fold is tested with what the other folds fitted",
    points=3,
    hint="Was the threshold fitted on the test fold, or on all folds? Threshold and mean feature "
    "are both fitted on the other folds only, and the mean counts both faces of each pair. A "
    "threshold that is given is used in every fold; the mean is then still that of the other "
    "folds. Which fold a pair is in, its label says: folds by position in the list are others. The "
    "mean is over the folds, not over the pairs; std divides by the number of folds, not n - 1. "
    "A pair is the same above the threshold (>, not >=).",
)
def test_threshold_is_not_fitted_on_the_test_fold():
    # Fold 0 separates at about 20 degrees, fold 1 at about 70; each is tested with the other's
    # threshold, so one of its two pairs fails. Fitted on the test fold itself, every fold would be
    # perfect. Each pair is entered with its mirror image (b = -a side) so that the mean feature of
    # any fold is exactly zero.
    degrees = np.array([10.0, 30.0, 60.0, 80.0])
    same = np.array([True, False, True, False])
    folds = np.array([0, 0, 1, 1])
    first = np.tile([[1.0, 0.0]], (4, 1))
    second = angles(degrees)
    result = fold_accuracy(
        np.concatenate([first, -first]),
        np.concatenate([second, -second]),
        np.tile(same, 2),
        np.tile(folds, 2),
    )
    np.testing.assert_allclose(result.accuracies, [0.5, 0.5])
    cosine = np.cos(np.deg2rad(degrees))
    np.testing.assert_allclose(result.thresholds, [cosine[2:].mean(), cosine[:2].mean()])
    assert (result.mean, result.std) == (0.5, 0.0)


def cosine(u, v):
    return u @ v / np.sqrt((u @ u) * (v @ v))


@pytest.mark.rubric("a fold is tested with what the other folds fitted")
def test_mean_is_that_of_the_other_folds():
    # The subtracted mean, recomputed here pair by pair.
    rng = np.random.default_rng(1)
    a = rng.normal(3, 1, (12, 5))
    b = rng.normal(3, 1, (12, 5))
    b[::2] = a[::2] + rng.normal(0, 0.3, (6, 5))
    same = np.arange(12) % 2 == 0
    folds = np.repeat([0, 1, 2], 4)
    result = fold_accuracy(a, b, same, folds, threshold=0.4)
    fitted = fold_accuracy(a, b, same, folds)
    for fold in range(3):
        rows = [i for i in range(12) if folds[i] != fold]
        mean = sum(a[i] + b[i] for i in rows) / (2 * len(rows))
        assert fitted.thresholds[fold] == pytest.approx(
            best_threshold([cosine(a[i] - mean, b[i] - mean) for i in rows], same[rows])
        )
        right = 0
        for i in np.flatnonzero(folds == fold):
            correct = (cosine(a[i] - mean, b[i] - mean) > 0.4) == same[i]
            assert result.correct[i] == correct
            right += correct
        assert result.accuracies[fold] == right / 4
    assert (result.thresholds == 0.4).all()
    assert result.mean == pytest.approx(result.accuracies.mean())
    assert result.std == pytest.approx(result.accuracies.std())


@pytest.mark.rubric("a fold is tested with what the other folds fitted")
def test_fixed_threshold_shows_what_refitting_hides():
    # A recognizer whose similarities all dropped is useless at the old threshold and perfect at a
    # new one.
    first = np.tile([[1.0, 0.0]], (8, 1))
    second = angles(np.tile([50.0, 80.0], 4))
    a = np.concatenate([first, -first])
    b = np.concatenate([second, -second])
    same = np.tile([True, False], 8)
    folds = np.tile(np.repeat([0, 1], 4), 2)
    assert fold_accuracy(a, b, same, folds).mean == 1.0
    assert fold_accuracy(a, b, same, folds, threshold=0.9).mean == 0.5


@pytest.mark.rubric("a fold is tested with what the other folds fitted")
def test_every_fold_counts_once_whatever_its_size():
    # With their mirror images, as above: fold 0 has 2 pairs, both right at 45 degrees, fold 1 has
    # 4, of which 1 is right.
    first = np.tile([[1.0, 0.0]], (6, 1))
    second = angles([10, 80, 10, 80, 80, 80])
    same = np.array([True, False, True, True, True, True])
    result = fold_accuracy(
        np.concatenate([first, -first]),
        np.concatenate([second, -second]),
        np.tile(same, 2),
        np.tile([0, 0, 1, 1, 1, 1], 2),
        threshold=np.cos(np.pi / 4),
    )
    np.testing.assert_allclose(result.accuracies, [1, 1 / 4])
    assert (result.mean, result.std) == (pytest.approx(5 / 8), pytest.approx(3 / 8))


@pytest.mark.parametrize("same, expected", [(False, 1.0), (True, 0.0)])
@pytest.mark.rubric("a fold is tested with what the other folds fitted")
def test_a_score_equal_to_the_threshold_is_a_different_pair(same, expected):
    a = np.array([[1.0, 0.0], [-1.0, 0.0]] * 2)
    b = np.array([[0.0, 1.0], [0.0, -1.0]] * 2)  # at right angles: the cosine is 0 exactly
    folds = np.array([0, 0, 1, 1])
    assert fold_accuracy(a, b, np.full(4, same), folds, threshold=0.0).mean == expected


@pytest.mark.rubric("a fold is tested with what the other folds fitted")
def test_fold_accuracy_rejects_bad_input():
    a = np.ones((4, 2))
    with pytest.raises(ValueError, match="folds"):
        fold_accuracy(a, a, np.ones(4), np.zeros(4))
    with pytest.raises(ValueError, match="same"):
        fold_accuracy(a, a, np.ones(3), np.arange(4))


# ------------------------------------------------------------------ curves


@pytest.mark.rubric(
    "area under the curve and equal error rate",
    points=1,
    hint="Pairs of equal score are accepted together: a tie counts half, so sum over distinct "
    "scores, with trapezoids. The equal error rate lies where false accepts meet 1 - true "
    "accepts, on the straight line between two points of the curve: neither of the two points, "
    "nor the mean of the nearest one's rates.",
)
def test_auc_equals_counting_pairs_with_ties():
    rng = np.random.default_rng(2)
    same = rng.random(60) < 0.4
    scores = np.round(rng.normal(same * 1.0), 1)
    positive = scores[same]
    negative = scores[~same]
    wins = sum((p > q) + 0.5 * (p == q) for p in positive for q in negative)
    assert auc(scores, same) == pytest.approx(wins / (len(positive) * len(negative)))
    assert auc(np.zeros(60), same) == pytest.approx(0.5)


@pytest.mark.rubric("area under the curve and equal error rate")
def test_eer_of_known_distributions():
    # Uniform on [0, 1] against uniform on [1 - o, 2 - o]: at the middle of the overlap both errors
    # are o / 2.
    grid = (np.arange(1000) + 0.5) / 1000
    for overlap in (0.0, 0.2, 0.6, 1.0):
        scores = np.r_[grid, grid + 1 - overlap]
        assert eer(scores, np.repeat([False, True], 1000)) == pytest.approx(overlap / 2, abs=2e-3)
    # Same scores turned round.
    assert eer(np.r_[grid, grid - 1], np.repeat([False, True], 1000)) == pytest.approx(1, abs=2e-3)
    # One tie of everything: the ROC curve is the diagonal.
    assert eer(np.zeros(10), np.arange(10) < 3) == pytest.approx(0.5)


@pytest.mark.rubric("area under the curve and equal error rate")
def test_eer_by_hand_between_two_points_of_the_curve():
    # False rejects stay at 1/3 while false accepts rise from 0 to 1/2.
    same = [True, True, True, False, False]
    assert eer([0.9, 0.8, 0.2, 0.5, 0.1], same) == pytest.approx(1 / 3)
    # One tie takes false accepts from 0 to 1/2 and false rejects from 2/3 to 0: they meet after 4/7
    # of the way.
    assert eer([0.9, 0.5, 0.5, 0.5, 0.1], same) == pytest.approx(2 / 7)


@pytest.mark.rubric(
    "true accepts at a rate of false accepts, and rank 1",
    points=1,
    hint="tar_at_far: the rate of false accepts may be at most `far`, ties go together. rank1: by "
    "cosine, so normalize the gallery, or a long feature wins every probe.",
)
def test_tar_at_far_by_hand():
    scores = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
    same = [True, False, True, True, False, True]
    assert tar_at_far(scores, same, far=0.0) == 0.25  # only 0.9 lies above the best different pair
    assert tar_at_far(scores, same, far=0.49) == 0.25
    assert tar_at_far(scores, same, far=0.5) == 0.75
    assert tar_at_far(scores, same, far=1.0) == 1.0
    # A tie between a same and a different pair cannot be split.
    assert tar_at_far([0.5, 0.5], [True, False], far=0.0) == 0.0


@pytest.mark.rubric("area under the curve and equal error rate")
def test_curves_reject_bad_input():
    for measure in (auc, eer, tar_at_far):
        with pytest.raises(ValueError, match="same"):
            measure([0.1, 0.2], [True, True])


def test_bad_input_that_the_docstrings_do_not_name():
    """Not graded: the starter does not ask for it."""
    for measure in (auc, eer, tar_at_far):
        with pytest.raises(ValueError, match="nan"):
            measure([0.1, np.nan], [True, False])
    with pytest.raises(ValueError, match="far"):
        tar_at_far([0.1, 0.2], [True, False], far=2)
    with pytest.raises(ValueError, match="features_a"):
        cosine_scores(np.ones((3, 2)), np.ones((2, 2)))
    with pytest.raises(ValueError, match="Quantiles"):
        bootstrap_identities(len, [1, 2], level=95)


@pytest.mark.rubric("true accepts at a rate of false accepts, and rank 1")
def test_rank1_by_hand():
    gallery = np.array([[10.0, 0.0], [0.0, 1.0]])  # lengths must not matter
    probe = np.array([[1.0, 0.5], [0.4, 0.5], [-1.0, 0.1], [5.0, 0.0]])
    assert rank1(gallery, ["ann", "bob"], probe, ["ann", "bob", "bob", "bob"]) == 0.75
    with pytest.raises(ValueError, match="gallery"):
        rank1(gallery, ["ann"], probe, ["ann"] * 4)


# ------------------------------------------------------------------ bootstrap


@pytest.mark.rubric(
    "the interval resamples people",
    points=2,
    hint="Draw people with replacement, not rows: a pair counts w_a * w_b times, not the smaller "
    "of the two, and w where both faces are one person's. Draw n times. Leave out draws whose "
    "statistic is nan or raises ValueError; take quantiles (1 - level) / 2 and (1 + level) / 2: a "
    "one-sided interval has another coverage; the same seed gives the same interval.",
)
def test_bootstrap_weights_are_products_of_draws():
    # With people 0 and 1, a draw is (2, 0), (1, 1) or (0, 2) times. The pair (0, 1) counts only in
    # the second, where each single-person pair counts once.
    seen = set()

    def record(index):
        seen.add(tuple(np.bincount(index, minlength=3)))
        return 0.0

    bootstrap_identities(record, np.array([[0, 0], [1, 1], [0, 1]]), n=100)
    assert seen == {(2, 0, 0), (1, 1, 1), (0, 2, 0)}


@pytest.mark.rubric("the interval resamples people")
def test_bootstrap_counts_a_pair_as_often_as_its_people_form_it():
    # How often 0 and 1 were drawn shows in their own rows: drawn 3 and 2 times they form 6 pairs.
    pairs = np.array([[0, 0], [1, 1], [0, 1], [2, 2], [3, 3], [4, 4]])
    counts = []

    def record(index):
        counts.append(np.bincount(index, minlength=6))
        return 0.0

    bootstrap_identities(record, pairs, n=300)
    first, second, both, *_ = np.array(counts).T
    np.testing.assert_array_equal(both, first * second)
    assert (np.minimum(first, second) >= 2).any()


@pytest.mark.rubric("the interval resamples people")
def test_bootstrap_draws_n_times():
    drawn = []
    bootstrap_identities(lambda index: drawn.append(index) or 0.0, np.arange(20), n=7)
    assert [len(index) for index in drawn] == [20] * 7


@pytest.mark.rubric("the interval resamples people")
def test_bootstrap_interval_of_a_mean():
    # One sample per person: the ordinary bootstrap, whose interval nears mean +- 1.96 s / sqrt(n).
    values = np.random.default_rng(3).normal(5, 2, 400)
    low, high = bootstrap_identities(
        lambda index: values[index].mean(), np.arange(400), n=2000, seed=1
    )
    half = 1.96 * values.std() / 20
    assert (low, high) == (
        pytest.approx(values.mean() - half, abs=0.04),
        pytest.approx(values.mean() + half, abs=0.04),
    )


@pytest.mark.parametrize("level", [0.5, 0.8, 0.95])
@pytest.mark.rubric("the interval resamples people")
def test_bootstrap_leaves_out_as_much_below_as_above(level):
    # Half of what the level leaves lies below the interval, half above it.
    values = np.random.default_rng(7).normal(size=60)
    drawn = []

    def statistic(index):
        drawn.append(values[index].mean())
        return drawn[-1]

    low, high = bootstrap_identities(statistic, np.arange(60), n=1000, level=level)
    below = np.mean(np.array(drawn) < low)
    above = np.mean(np.array(drawn) > high)
    assert below == pytest.approx((1 - level) / 2, abs=2e-3)
    assert above == pytest.approx((1 - level) / 2, abs=2e-3)


@pytest.mark.rubric("the interval resamples people")
def test_bootstrap_resamples_people_not_rows():
    # Twenty copies of each row add no information: the interval must not shrink.
    values = np.random.default_rng(4).normal(size=50)
    once = bootstrap_identities(lambda index: values[index].mean(), np.arange(50), n=300)
    copies = np.repeat(values, 20)
    people = np.repeat(np.arange(50), 20)
    assert bootstrap_identities(lambda index: copies[index].mean(), people, n=300) == pytest.approx(
        once
    )


@pytest.mark.rubric("the interval resamples people")
def test_bootstrap_seed_and_undefined_draws():
    scores = np.array([0.9, 0.2, 0.8, 0.4, 0.1, 0.7])
    people = np.array([["a", "a"], ["a", "b"], ["b", "b"], ["b", "c"], ["a", "c"], ["c", "c"]])
    same = people[:, 0] == people[:, 1]

    def statistic(index):  # undefined when one person is drawn three times
        return auc(scores[index], same[index])

    assert bootstrap_identities(statistic, people, n=200, seed=5) == (1.0, 1.0)
    with pytest.raises(ValueError, match="(?i)statistic|draw"):
        bootstrap_identities(lambda index: float("nan"), people, n=5)
    values = np.random.default_rng(6).normal(size=40)
    intervals = [
        bootstrap_identities(lambda index: values[index].mean(), np.arange(40), seed=s)
        for s in (1, 1, 2)
    ]
    assert intervals[0] == intervals[1] != intervals[2]
