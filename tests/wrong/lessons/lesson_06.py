"""Wrong answers to the exercises of lesson 06, with words that the message must contain."""

from contextlib import contextmanager

import torch


def D_without_detach(L_D, modified, original, identities):  # M learns to help D
    return L_D(modified, identities) + L_D(original, identities)


def D_flipped(L_D, modified, original, identities):  # L_adv minimized by D
    return -L_D(modified.detach(), identities) - L_D(original, identities)


def D_modified_only(L_D, modified, original, identities):  # eq. 2's second term forgotten
    return L_D(modified.detach(), identities)


def D_no_grad(L_D, modified, original, identities):  # no gradient at all
    with torch.no_grad():
        return L_D(modified, identities) + L_D(original, identities)


@contextmanager
def frozen_no_grad(player):  # cuts the gradient to M
    with torch.no_grad():
        yield


@contextmanager
def frozen_weights_only(player):  # batch norm's averages move
    wanted = [p.requires_grad for p in player.parameters()]
    player.requires_grad_(False)
    yield
    for parameter, want in zip(player.parameters(), wanted):
        parameter.requires_grad_(want)


@contextmanager
def frozen_all_true(player):  # unfreezes what was frozen before
    training = player.training
    player.eval().requires_grad_(False)
    yield
    player.train(training).requires_grad_(True)


@contextmanager
def frozen_forever(player):  # not restored
    player.eval().requires_grad_(False)
    yield


@contextmanager
def frozen_without_finally(player):  # an error leaves it frozen
    wanted = [p.requires_grad for p in player.parameters()]
    training = player.training
    player.eval().requires_grad_(False)
    yield
    for parameter, want in zip(player.parameters(), wanted):
        parameter.requires_grad_(want)
    player.train(training)


def adversarial_cap_on_mean(each, cap):  # one face above the cap hides the others
    return -each.mean().clamp(max=cap)


def adversarial_flipped(each, cap):  # M helps D
    return each.clamp(max=cap).mean()


def adversarial_no_cap(each, cap):  # the paper's own term
    return -each.mean()


def adversarial_larger(each, cap):  # max for min
    return -each.clamp(min=cap).mean()


def adversarial_sum(each, cap):  # grows with the batch
    return -each.clamp(max=cap).sum()


def targets_any(labels, identities):  # may hit the true one
    return torch.randint(0, identities, labels.shape)


def targets_next(labels, identities):  # a fixed swap
    return (labels + 1) % identities


def targets_beyond(labels, identities):  # no remainder
    return labels + torch.randint(1, identities, labels.shape)


def targets_pushed(labels, identities):  # the neighbor is drawn twice as often
    drawn = torch.randint(0, identities, labels.shape)
    return torch.where(drawn == labels, (labels + 1) % identities, drawn)


WRONG = {
    "check_loss_of_D": [
        (D_without_detach, "detach"),
        (D_flipped, "D maximizes"),
        (D_modified_only, "originals are missing"),
        (D_no_grad, "no_grad"),
    ],
    "check_frozen": [
        (frozen_no_grad, "cuts the gradient"),
        (frozen_weights_only, "eval()"),
        (frozen_all_true, "not True for all"),
        (frozen_forever, "eval mode"),
        (frozen_without_finally, "finally"),
    ],
    "check_modifier_adversarial": [
        (adversarial_cap_on_mean, "on the mean"),
        (adversarial_flipped, "sign"),
        (adversarial_no_cap, "no cap"),
        (adversarial_larger, "larger"),
        (adversarial_sum, "sum"),
    ],
    "check_random_label_targets": [
        (targets_any, "true label"),
        (targets_next, "not even"),
        (targets_beyond, "remainder"),
        (targets_pushed, "not even"),
    ],
}
