"""Wrong answers to the exercises of lesson 03, with words that the message must contain."""

import numpy as np
import torch

from ppad import metrics
from ppad.losses import psi as right_psi


def psi_rises_again(cosine, m=4):  # cos(m theta) without the pieces
    return torch.cos(m * torch.acos(cosine))


def psi_not_shifted(cosine, m=4):  # - 2k forgotten
    theta = torch.acos(cosine)
    k = torch.floor(m * theta / torch.pi).clamp(max=m - 1)
    return (1 - 2 * (k % 2)) * torch.cos(m * theta)


def psi_not_turned(cosine, m=4):  # (-1)^k forgotten
    theta = torch.acos(cosine)
    return torch.cos(m * theta) - 2 * torch.floor(m * theta / torch.pi).clamp(max=m - 1)


def psi_always_four(cosine, m=4):  # m ignored
    return right_psi(cosine, 4)


def psi_detached(cosine, m=4):  # no gradient for D
    return right_psi(cosine, m).detach()


def psi_prints(cosine, m=4):  # return forgotten
    right_psi(cosine, m)


def logits_all(cosines, norms, labels, margin_lambda, m=4):  # margin on every class
    return norms * (margin_lambda * cosines + right_psi(cosines, m)) / (1 + margin_lambda)


# margin on all but the true class
def logits_wrong_class(cosines, norms, labels, margin_lambda, m=4):
    hard = (margin_lambda * cosines + right_psi(cosines, m)) / (1 + margin_lambda)
    own = torch.nn.functional.one_hot(labels, cosines.shape[1]).bool()
    return norms * torch.where(own, cosines, hard)


# lambda on psi instead of the cosine
def logits_swapped(cosines, norms, labels, margin_lambda, m=4):
    own = cosines.gather(1, labels[:, None])
    own = (own + margin_lambda * right_psi(own, m)) / (1 + margin_lambda)
    return norms * cosines.scatter(1, labels[:, None], own)


def logits_in_place(cosines, norms, labels, margin_lambda, m=4):  # overwrites the caller's cosines
    rows = torch.arange(len(labels))
    own = cosines[rows, labels]
    cosines[rows, labels] = (margin_lambda * own + right_psi(own, m)) / (1 + margin_lambda)
    return norms * cosines


def _folds(first, second, same, folds, threshold_on, mean_on):
    out = []
    for fold in np.unique(folds):
        test = folds == fold
        part = {"test": test, "others": ~test, "all": np.ones_like(test)}
        mean = (
            0.0
            if mean_on is None
            else np.concatenate([first[part[mean_on]], second[part[mean_on]]]).mean(0)
        )
        scores = metrics.cosine_scores(first, second, mean)
        threshold = metrics.best_threshold(scores[part[threshold_on]], same[part[threshold_on]])
        out.append(((scores[test] > threshold) == same[test]).mean())
    return np.array(out)


def folds_on_test(first, second, same, folds):  # threshold fitted on the test fold
    return _folds(first, second, same, folds, "test", "others")


def folds_on_all(first, second, same, folds):  # one threshold for everything
    return _folds(first, second, same, folds, "all", "all")


def folds_no_mean(first, second, same, folds):  # mean feature not subtracted
    return _folds(first, second, same, folds, "others", None)


def folds_mean(first, second, same, folds):  # the mean over folds
    return _folds(first, second, same, folds, "others", "others").mean()


def tar_of_all_pairs(scores, same, far):  # rate of all pairs instead of same pairs
    return metrics.tar_at_far(scores, same, far) * same.mean()


def tar_far_of_all_pairs(scores, same, far):  # false accepts counted as a share of all pairs
    return metrics.tar_at_far(scores, same, min(1.0, far * len(same) / (~same).sum()))


def tar_no_false_accept(scores, same, far):  # far ignored: no false accept allowed
    return float((scores[same] > scores[~same].max()).mean())


def tar_counts_impostors(scores, same, far):  # counts the different pairs
    threshold = np.sort(scores[~same])[::-1][min(int(far * (~same).sum()), (~same).sum() - 1)]
    return float((scores[~same] > threshold).mean())


WRONG = {
    "check_psi": [
        (psi_rises_again, "rises again"),
        (psi_not_shifted, "- 2k is missing"),
        (psi_not_turned, "(-1)^k is missing"),
        (psi_always_four, "always use 4"),
        (psi_detached, "no gradient"),
        (psi_prints, "returned None"),
    ],
    "check_margin_logits": [
        (logits_all, "on every person"),
        (logits_wrong_class, "wrong persons"),
        (logits_swapped, "weights are swapped"),
        (logits_in_place, "in place"),
    ],
    "check_fold_accuracies": [
        (folds_on_test, "fitted on the test fold"),
        (folds_on_all, "fitted on all folds"),
        (folds_no_mean, "not subtracted"),
        (folds_mean, "each fold"),
    ],
    "check_tar_at_far": [
        (tar_of_all_pairs, "share of the 4 same"),
        (tar_far_of_all_pairs, "share of the 10 different"),
        (tar_no_false_accept, "one of ten"),
        (tar_counts_impostors, "different pairs that pass"),
    ],
}
