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


@contextmanager
def frozen_that_swallows(player):  # no error inside is seen any more
    wanted = [p.requires_grad for p in player.parameters()]
    training = player.training
    player.eval().requires_grad_(False)
    try:
        yield
    except Exception:
        pass
    finally:
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


def written_step(
    M,
    D,
    optimizers,
    faces,
    people,
    cap,
    l1_weight,
    detach=True,
    sign=-1,
    originals=True,
    freeze=True,
    clear=True,
):
    """The right step, but for what the arguments change."""
    modified = M(faces)
    if clear:
        optimizers["D"].zero_grad()
        optimizers["M"].zero_grad()
    loss = D(modified.detach() if detach else modified, people).mean()
    if originals:
        loss = loss + D(faces, people).mean()
    loss.backward(retain_graph=True)
    optimizers["D"].step()
    if freeze:
        D.eval().requires_grad_(False)
    L_adv = sign * D(modified, people).clamp(max=cap).mean()
    L_l1 = l1_weight * (modified - faces).abs().mean()
    (L_adv + L_l1).backward()
    D.train().requires_grad_(True)
    optimizers["M"].step()
    return L_adv.item(), L_l1.item()


def step_without_detach(*batch):  # D's gradient stays in M, and M helps D
    return written_step(*batch, detach=False)


def step_that_helps_D(*batch):  # the sign of L_adv
    return written_step(*batch, sign=1)


def step_without_originals(*batch):  # eq. 2's second term forgotten
    return written_step(*batch, originals=False)


def step_without_frozen(*batch):  # D's buffers move in line 9
    return written_step(*batch, freeze=False)


def step_that_never_clears(*batch):  # gradients of all steps add up
    return written_step(*batch, clear=False)


def step_that_leaves_D_in_eval_mode(M, D, *batch):
    terms = written_step(M, D, *batch)
    D.eval()
    return terms


def step_without_cap(M, D, optimizers, faces, people, cap, l1_weight):
    return written_step(M, D, optimizers, faces, people, float("inf"), l1_weight)


def step_without_l1(M, D, optimizers, faces, people, cap, l1_weight):
    return written_step(M, D, optimizers, faces, people, cap, 0.0)


def step_of_M_first(M, D, optimizers, faces, people, cap, l1_weight):  # line 9 before line 3
    modified = M(faces)
    optimizers["M"].zero_grad()
    D.eval().requires_grad_(False)
    L_adv = -D(modified, people).clamp(max=cap).mean()
    L_l1 = l1_weight * (modified - faces).abs().mean()
    (L_adv + L_l1).backward()
    D.train().requires_grad_(True)
    optimizers["M"].step()
    optimizers["D"].zero_grad()
    (D(modified.detach(), people).mean() + D(faces, people).mean()).backward()
    optimizers["D"].step()
    return L_adv.item(), L_l1.item()


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
        (frozen_that_swallows, "swallows"),
    ],
    "check_modifier_adversarial": [
        (adversarial_cap_on_mean, "on the mean"),
        (adversarial_flipped, "sign"),
        (adversarial_no_cap, "no cap"),
        (adversarial_larger, "larger"),
        (adversarial_sum, "sum"),
    ],
    "check_one_step": [
        (step_without_detach, "detach"),
        (step_of_M_first, "after D's step"),
        (step_that_helps_D, "sign"),
        (step_without_originals, "two terms"),
        (step_without_frozen, "frozen"),
        (step_that_never_clears, "zero_grad"),
        (step_without_cap, "cap is missing"),
        (step_that_leaves_D_in_eval_mode, "in eval mode"),
        (step_without_l1, "L1"),
    ],
    "check_random_label_targets": [
        (targets_any, "true label"),
        (targets_next, "not even"),
        (targets_beyond, "remainder"),
        (targets_pushed, "not even"),
    ],
}
