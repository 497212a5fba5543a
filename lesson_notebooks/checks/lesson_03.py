"""Checks of lesson 03: psi, logits with a margin, accuracy over folds, TAR at a given FAR."""

import math

import numpy as np
import torch
from lesson import Wrong, agrees, call, exercise, expect, expect_close, expect_not, well_done

from ppad import metrics
from ppad.losses import psi as our_psi
from ppad.metrics import tar_at_far as our_tar_at_far

# ------------------------------------------------------------------ our solutions


def our_margin_logits(cosines, norms, labels, margin_lambda, m=4):
    """A-Softmax's logits (B, N): norms * cosines, with the margin for each face's own person."""
    own = cosines.gather(1, labels[:, None])  # (B, 1)
    own = (margin_lambda * own + our_psi(own, m)) / (1 + margin_lambda)
    return norms * cosines.scatter(1, labels[:, None], own)  # (B, N)


def our_fold_accuracies(first, second, same, folds):
    """Accuracy of each fold (F,), mean feature and threshold fitted on the other folds."""
    return metrics.fold_accuracy(first, second, same, folds).accuracies


# ------------------------------------------------------------------ checks


def check_psi(psi):
    """The closed form at chosen angles, the borders of the pieces, other margins, the gradient."""
    degrees = [0, 20, 50, 60, 80, 100, 130, 170]  # none on a border between two pieces
    theta = torch.tensor(degrees, dtype=torch.float64) * math.pi / 180
    cosine = theta.cos()
    for m in (4, 2, 1):
        k = [min(d * m // 180, m - 1) for d in degrees]
        flipped = [(-1) ** n * math.cos(m * math.radians(d)) for n, d in zip(k, degrees)]
        wanted = torch.tensor([t - 2 * n for t, n in zip(flipped, k)], dtype=torch.float64)
        got = call("psi", psi, cosine, m)
        steps = torch.tensor(k, dtype=torch.float64)
        of_cosine = [
            (-1) ** math.floor(m * c / math.pi) * math.cos(m * c) - 2 * math.floor(m * c / math.pi)
            for c in cosine.tolist()
        ]
        mistakes = [
            (
                (m * theta).cos(),
                (
                    "it is cos(m theta) itself, which rises again after 180 / m degrees; flip and"
                    " shift each piece: (-1)^k ... - 2k."
                ),
            ),
            (flipped, "the pieces are flipped but not shifted: the - 2k is missing."),
            (
                (m * theta).cos() - 2 * steps,
                "the pieces are shifted but not flipped: the sign (-1)^k is missing.",
            ),
            (of_cosine, "the input is cos(theta), not theta: take the arccos first."),
            (our_psi(cosine, 4), "m makes no difference: you always use 4."),
            (cosine, "m makes no difference: this is the plain cosine."),
        ]
        expect_not(f"psi at {degrees} degrees, m={m}", got, wanted, mistakes)
        expect_close(
            f"psi(cos of {degrees} degrees, m={m})",
            got,
            wanted,
            "k = floor(m theta / pi), at most m - 1.",
        )
    borders = torch.tensor([math.sqrt(0.5), 0.0, -math.sqrt(0.5), -1.0], dtype=torch.float64)
    expect_close(
        "psi(cos of [45, 90, 135, 180] degrees, m=4)",
        call("psi", psi, borders, 4),
        torch.tensor([-1.0, -3.0, -5.0, -7.0]),
        "These are the borders of the pieces, where neighbors must join.",
    )
    inside = torch.tensor([0.3, -0.6], dtype=torch.float64, requires_grad=True)
    answer = call("psi", psi, inside, 4)
    expect(
        torch.is_tensor(answer) and answer.requires_grad,
        "psi's result has no gradient: D could not be trained with it. Use torch functions, without"
        " item(), numpy or detach().",
    )
    answer.sum().backward()
    angle = inside.detach().acos()
    sign = torch.tensor([-1.0, 1.0], dtype=torch.float64)  # k is 1 at 72.5 degrees and 2 at 126.9
    expect_close(
        "the gradient of psi at [0.3, -0.6]",
        inside.grad,
        sign * 4 * (4 * angle).sin() / angle.sin(),
        "k is a count and carries no gradient.",
    )
    well_done("psi decreases from 1 to 1 - 2m in one continuous curve.")


def check_margin_logits(margin_logits):
    """By hand for three faces and three people."""
    cosines = torch.tensor(
        [[0.9, 0.1, -0.2], [0.3, 0.5, 0.4], [-0.7, 0.2, 0.6]], dtype=torch.float64
    )
    norms = torch.tensor([[1.0], [2.0], [10.0]], dtype=torch.float64)
    labels = torch.tensor([0, 2, 1])
    at = 5.0

    def psi4(c):
        angle = math.acos(c)
        k = math.floor(4 * angle / math.pi)
        return (-1) ** k * math.cos(4 * angle) - 2 * k

    def table(cell):
        return torch.tensor(
            [[cell(i, j, cosines[i, j].item()) for j in range(3)] for i in range(3)],
            dtype=torch.float64,
        )

    def mixed(c):
        return (at * c + psi4(c)) / (1 + at)

    own = labels.tolist()
    wanted = norms * table(lambda i, j, c: mixed(c) if j == own[i] else c)
    got = call("margin_logits", margin_logits, cosines, norms, labels, at, 4)
    everywhere = norms * table(lambda i, j, c: mixed(c))
    psi_alone = norms * table(lambda i, j, c: psi4(c) if j == own[i] else c)
    undivided = norms * table(lambda i, j, c: at * c + psi4(c) if j == own[i] else c)
    swapped = norms * table(lambda i, j, c: (c + at * psi4(c)) / (1 + at) if j == own[i] else c)
    without_norms = table(lambda i, j, c: mixed(c) if j == own[i] else c)
    mistakes = [
        (everywhere, "the margin acts on every person. Only the true one, labels[i], is changed."),
        (
            norms * table(lambda i, j, c: c if j == own[i] else mixed(c)),
            "the margin acts on the wrong persons: all but the true one.",
        ),
        (
            norms * table(lambda i, j, c: mixed(c) if j == i else c),
            "the margin acts on the diagonal, not on labels[i].",
        ),
        (
            norms * table(lambda i, j, c: mixed(c) if j == 0 else c),
            "the margin acts on person 0, not on labels[i].",
        ),
        (swapped, "the weights are swapped: lambda belongs to the cosine, 1 to psi."),
        (undivided, "the division by 1 + lambda is missing."),
        (psi_alone, "lambda is missing: this is psi alone."),
        (without_norms, "the norms are missing: a logit is |x| times a cosine."),
        (norms.T * without_norms, "the norms multiply the columns; keep their shape (B, 1)."),
        (norms * cosines, "there is no margin."),
    ]
    expect_not("margin_logits", got, wanted, mistakes)
    expect_close(
        "margin_logits",
        got,
        wanted,
        "Own person: |x| (lambda cos + psi) / (1 + lambda); everybody else: |x| cos.",
    )
    plain = call("margin_logits", margin_logits, cosines, norms, labels, at, 1)
    expect_close(
        "margin_logits with m = 1",
        plain,
        norms * cosines,
        "With m = 1 psi is the cosine; do you pass m on to psi?",
    )
    well_done("Only the true person's logit is reduced, and lambda says by how much.")


def check_fold_accuracies(fold_accuracies):
    """Three folds of 40 pairs, each step written out with plain loops."""
    rng = np.random.default_rng(2)
    same = np.arange(120) % 2 == 0
    folds = np.repeat([2, 5, 9], 40)
    first = rng.normal(size=(120, 3))
    second = np.where(same[:, None], first, rng.normal(size=(120, 3))) + 1.1 * rng.normal(
        size=(120, 3)
    )
    first = first + [1.5, 0, 0.5]
    second = second + [1.5, 0, 0.5]  # so that the mean has an effect

    def accuracies(fitted_on, mean_of):
        out = []
        for fold in (2, 5, 9):
            test = folds == fold
            choose = {"others": ~test, "test": test, "all": test | ~test}
            pick = choose[mean_of] if mean_of else None
            mean = np.concatenate([first[pick], second[pick]]).mean(0) if mean_of else 0.0
            scores = np.array(
                [
                    (a - mean)
                    @ (b - mean)
                    / math.sqrt(((a - mean) ** 2).sum() * ((b - mean) ** 2).sum())
                    for a, b in zip(first, second)
                ]
            )
            fit = choose[fitted_on]
            values = np.sort(scores[fit])
            tries = np.r_[values[0] - 1, (values[1:] + values[:-1]) / 2, values[-1] + 1]
            right = np.array([((scores[fit] > t) == same[fit]).sum() for t in tries])
            best = tries[right == right.max()]
            threshold = (
                best.mean()
                if len(best) == 1 or ((scores[fit] > best.mean()) == same[fit]).sum() == right.max()
                else best[len(best) // 2]
            )
            out.append(((scores[test] > threshold) == same[test]).mean())
        return np.array(out)

    wanted = accuracies("others", "others")
    got = call("fold_accuracies", fold_accuracies, first, second, same, folds)
    mistakes = [
        ("test", "others", "the threshold is fitted on the test fold. Fit it on the other folds."),
        ("test", "test", "threshold and mean are fitted on the test fold. Use the other folds."),
        ("all", "others", "the threshold is fitted on all folds, the tested one included."),
        ("all", "all", "threshold and mean are fitted on all folds, the tested one included."),
        ("others", "all", "the mean feature is that of all folds; take it from the other folds."),
        ("others", "test", "the mean feature is that of the test fold; use the other folds."),
        ("others", None, "the mean feature is not subtracted."),
    ]
    known = [(accuracies(fitted_on, mean_of), words) for fitted_on, mean_of, words in mistakes]
    expect_not("fold_accuracies", got, wanted, known)
    if agrees(got, wanted.mean()):
        raise Wrong(
            "fold_accuracies is one number, shape (): return the accuracy of each fold, shape (3,)."
        )
    if agrees(got, 1 - wanted):
        raise Wrong("fold_accuracies: these are the errors, 1 - accuracy.")
    expect_close(
        "fold_accuracies",
        got,
        wanted,
        "The folds here are 2, 5 and 9: use np.unique(folds), in ascending order.",
    )
    well_done("The tested fold is never used for fitting.")


def check_tar_at_far(tar_at_far):
    """Ten different and four same pairs, counted by hand; a tie."""
    different = [0.8, 0.5, 0.3, 0.3, 0.2, 0.2, 0.1, 0.1, 0.0, -0.1]
    scores = np.array([0.9, 0.7, 0.6, 0.4] + different)
    same = np.array([True] * 4 + [False] * 10)
    # FAR: TAR, the share of same pairs above the first different pair to be refused
    hand = {0.1: 0.75, 0.0: 0.25, 0.15: 0.75, 0.4: 1.0, 1.0: 1.0}
    for far, wanted in hand.items():
        got = call("tar_at_far", tar_at_far, scores, same, far)
        if agrees(got, wanted * 4 / 14) and wanted:
            raise Wrong(
                f"tar_at_far({far}) is {float(got):.4g}, expected {wanted}: the true accept rate is"
                " a share of the 4 same pairs, not of all 14."
            )
        allowed_of_all = sorted(different, reverse=True)[min(int(far * 14), 9)]
        if (
            far in (0.15, 0.4)
            and agrees(got, float((scores[same] > allowed_of_all).mean()))
            and not agrees(got, wanted)
        ):
            raise Wrong(
                f"tar_at_far({far}): the false accept rate is a share of the 10 different pairs,"
                " not of all 14."
            )
        if far == 0.1 and agrees(got, float((scores[~same] > 0.5).mean())):
            raise Wrong(
                "tar_at_far: you count the different pairs that pass; that is the false accept"
                " rate. Count same pairs."
            )
        if far == 0.1 and agrees(got, 0.25):
            raise Wrong(
                "tar_at_far(0.1) is 0.25, expected 0.75: one of ten different pairs may pass, so"
                " the threshold must go below the highest different score, down to the next one."
            )
        if far == 0.1 and agrees(got, 0.5):
            raise Wrong(
                "tar_at_far(0.1) is 0.5, expected 0.75: the scores are similarities, so accept the"
                " high ones."
            )
        expect_close(
            f"tar_at_far(scores, same, far={far})",
            got,
            wanted,
            "Take the lowest threshold at which the share of different pairs that pass is at most"
            " far.",
        )
    got = call(
        "tar_at_far",
        tar_at_far,
        np.array([0.9, 0.5, 0.5, 0.1]),
        np.array([True, True, False, False]),
        0.0,
    )
    expect_close(
        "tar_at_far where a same and a different pair tie at 0.5, far=0",
        got,
        0.5,
        "A threshold cannot separate two equal scores: accepting one accepts both.",
    )
    well_done(
        "This is how a border control would quote it: how many get in while almost no impostor"
        " does."
    )


# ------------------------------------------------------------------ what the check cells call

psi = exercise(check_psi, our_psi)
margin_logits = exercise(check_margin_logits, our_margin_logits)
fold_accuracies = exercise(check_fold_accuracies, our_fold_accuracies)
tar_at_far = exercise(check_tar_at_far, our_tar_at_far)
