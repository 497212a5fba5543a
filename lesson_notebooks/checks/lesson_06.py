"""Checks of lesson 06: D's loss, a frozen player, M's capped reward, one step, random labels."""

import torch
from lesson import Wrong, call, exercise, expect, expect_close, expect_not, well_done
from torch import nn

from ppad.losses import modifier_adversarial as our_modifier_adversarial
from ppad.losses import random_label_targets as our_random_label_targets
from ppad.optim import frozen as our_frozen

# ------------------------------------------------------------------ our solutions


def our_loss_of_D(L_D, modified, original, identities):
    """D's loss in line 3, -L_adv, without a gradient for M."""
    return L_D(modified.detach(), identities) + L_D(original, identities)


def our_one_step(M, D, optimizers, faces, people, cap, l1_weight):
    """Lines 2, 3 and 9 of Algorithm 1, without A."""
    modified = M(faces)
    optimizers["D"].zero_grad()
    our_loss_of_D(lambda *batch: D(*batch).mean(), modified, faces, people).backward()
    optimizers["D"].step()

    optimizers["M"].zero_grad()
    with our_frozen(D):
        L_adv = our_modifier_adversarial(D(modified, people), cap)
        L_l1 = l1_weight * (modified - faces).abs().mean()
        (L_adv + L_l1).backward()
    optimizers["M"].step()
    return L_adv.item(), L_l1.item()


# ------------------------------------------------------------------ checks


def check_loss_of_D(loss_of_D):
    """A D with one weight: L_D(p, i) = w * mean(p) + sum(i)."""
    weight = torch.tensor(3.0, requires_grad=True)
    modifier_weight = torch.tensor(2.0, requires_grad=True)  # represents M's weights
    original = torch.tensor([[1.0, 3.0]])
    identities = torch.tensor([5])
    modified = modifier_weight * original  # mean 4; the original's mean is 2

    def L_D(pictures, people):
        return weight * pictures.mean() + people.sum()

    got = call("loss_of_D", loss_of_D, L_D, modified, original, identities)
    mistakes = [
        (
            -28.0,
            "this is L_adv itself, which D maximizes; its optimizer minimizes, so return -L_adv.",
        ),
        (17.0, "the originals are missing. Eq. 2 has two terms: D must also identify originals."),
        (11.0, "the modified faces are missing: D would not be trained on M's output."),
        (6.0, "one of the two terms has the wrong sign: D minimizes both losses."),
        (-6.0, "one of the two terms has the wrong sign: D minimizes both losses."),
    ]
    expect_not("loss_of_D", got, 28.0, mistakes)
    expect_close("loss_of_D", got, 28.0, "L_D(M(f), i) + L_D(f, i).")
    expect(
        torch.is_tensor(got) and got.requires_grad,
        "loss_of_D has no gradient at all: detach the modified pictures only, and do not compute"
        " the loss under no_grad.",
    )
    got.backward()
    if modifier_weight.grad is not None:
        raise Wrong(
            f"loss_of_D changes M: M's weight has a gradient of {modifier_weight.grad.item():g},"
            " expected none. It would train M to make faces that D identifies easily. Use"
            " modified.detach()."
        )
    expect_close("the gradient of D's weight", weight.grad, 6.0, "Both pictures' means, 4 + 2.")
    well_done("D is trained on both pictures, and M gets no gradient.")


def check_frozen(frozen):
    """A small D with batch norm and dropout; one of its weights is always frozen."""
    torch.manual_seed(0)
    player = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))
    player[0].weight.requires_grad_(False)
    player.train()
    held = {name: value.clone() for name, value in player.state_dict().items()}
    x = torch.randn(5, 3, requires_grad=True)
    try:
        with frozen(player):
            player(x).sum().backward()
    except RuntimeError as error:
        raise Wrong(
            f"frozen cuts the gradient: backward stopped with '{str(error)[:60]}...'."
            " torch.no_grad() stops everything; M needs the gradient that passes through D."
        ) from error
    except Exception as error:
        raise Wrong(
            f"frozen stopped with {type(error).__name__}: {error}. It must be a context manager:"
            " @contextmanager from contextlib above a function with one yield."
        ) from error
    expect(
        x.grad is not None,
        "frozen cuts the gradient: the input has no gradient. M needs the gradient that"
        " passes through D.",
    )
    for name, parameter in player.named_parameters():
        expect(
            parameter.grad is None,
            f"frozen lets {name} collect a gradient: switch requires_grad off for every parameter.",
        )
    for name, value in player.state_dict().items():
        expect(
            torch.equal(value, held[name]),
            f"frozen lets {name} move: batch norm updates its running averages in training mode, "
            "gradients or not. Call player.eval() too.",
        )
    expect(
        player.training,
        "frozen leaves the player in eval mode: it must be restored to its former mode.",
    )
    for name, parameter in player.named_parameters():
        want = name != "0.weight"
        if parameter.requires_grad != want:
            raise Wrong(
                f"after frozen, {name}.requires_grad is {not want}, it was {want} before: note what"
                " each parameter had, and put that back, not True for all (or False for all)."
            )
    player.eval()
    with frozen(player):
        pass
    expect(
        not player.training,
        "frozen puts the player into training mode though it was in eval mode: note the mode"
        " before.",
    )
    try:
        with frozen(player):
            raise KeyError("something went wrong inside")
    except KeyError:
        pass
    else:
        raise Wrong(
            "frozen swallows the errors of its block, so nobody would see a mistake there: put the"
            " yield into try ... finally, without except."
        )
    expect(
        player[3].weight.requires_grad,
        "an error inside the block leaves the player frozen: put the yield into try ... finally.",
    )
    well_done("The gradient passes through D, and D stays as it was.")


def check_modifier_adversarial(modifier_adversarial):
    """Four faces, two of them above the cap."""
    each = torch.tensor([1.0, 2.0, 5.0, 9.0], requires_grad=True)
    cap = 3.0
    got = call("modifier_adversarial", modifier_adversarial, each, cap)
    mistakes = [
        (-3.0, "the cap is on the mean; it must be on each face."),
        (2.25, "the sign is wrong: M minimizes this, so a larger loss of D must make it smaller."),
        (-4.25, "there is no cap."),
        (-5.0, "you took the larger of loss and cap; take the smaller."),
        (-9.0, "you sum over the faces; the expectation is a mean."),
    ]
    expect_not("modifier_adversarial of [1, 2, 5, 9] with cap 3", got, -2.25, mistakes)
    expect_close(
        "modifier_adversarial of [1, 2, 5, 9] with cap 3", got, -2.25, "-(1 + 2 + 3 + 3) / 4."
    )
    expect(
        torch.is_tensor(got) and got.requires_grad,
        "modifier_adversarial cuts the gradient: stay with tensors, no .item() or float().",
    )
    got.backward()
    expect_close(
        "its gradient",
        each.grad,
        torch.tensor([-0.25, -0.25, 0, 0]),
        "A face above the cap has no gradient; the others have -1 / B each.",
    )
    free = call("modifier_adversarial", modifier_adversarial, each.detach(), float("inf"))
    expect_close(
        "modifier_adversarial with cap infinity",
        free,
        -4.25,
        "Without a cap it is the paper's own term, -mean.",
    )
    well_done("M is rewarded for each face until D knows nothing about it, and no further.")


class _OneWeightM(nn.Module):
    """M(f) = m f."""

    def __init__(self):
        super().__init__()
        self.m = nn.Parameter(torch.tensor(2.0))

    def forward(self, faces):
        return self.m * faces


class _OneWeightD(nn.Module):
    """Losses (B,) = w times each picture's mean. At each call: was D frozen, and in which mode?"""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(1.0))
        self.seen = []
        self.modes = []

    def forward(self, pictures, people):
        self.seen.append(not self.training and not self.w.requires_grad)
        self.modes.append(self.training)
        return self.w * pictures.flatten(1).mean(dim=1)


def check_one_step(one_step):
    """Two faces with means 1 and 3, an M and a D of one weight each, plain gradient descent.

    First step: D's gradient is 2 m + 2 = 6, so w = 1 - 0.05 * 6 = 0.7. M's losses are 1.4 and 4.2
    (above the cap of 2.2): its gradient is -0.7 / 2 + 0.05 * 2 (L1), so m = 2.025.
    """
    M = _OneWeightM()
    D = _OneWeightD()
    optimizers = {
        "D": torch.optim.SGD(D.parameters(), lr=0.05),
        "M": torch.optim.SGD(M.parameters(), lr=0.1),
    }
    faces = torch.tensor([1.0, 3.0])[:, None, None, None].expand(2, 3, 4, 4)
    people = torch.tensor([5, 6])

    def step():
        terms = call("one_step", one_step, M, D, optimizers, faces, people, 2.2, 0.05)
        return D.w.item(), M.m.item(), terms

    w, m, terms = step()
    mistakes_of_D = [
        (1.0, "D has not moved: line 3 is missing, or its optimizer's step."),
        (0.8, "D learns from M's pictures only: eq. 2 has two terms."),
        (0.9, "D learns from the originals only: eq. 2 has two terms."),
        (1.3, "D moves the wrong way: it must get better at naming people; minimize its losses."),
        (0.4, "D's gradient is twice too long: take means over the faces, not sums."),
    ]
    expect_not("D's weight after one_step", w, 0.7, mistakes_of_D)
    expect_close("D's weight after one_step", w, 0.7, "1 - 0.05 * (mean of f' + mean of f).")
    mistakes_of_M = [
        (2.0, "M has not moved: line 9 is missing, or its optimizer's step."),
        (2.04, "M learns from D as it was before line 3; line 9 comes after D's step."),
        (2.035, "M's L1 term is missing."),
        (2.13, "the cap is missing: the second face, whose loss is above it, still moves M."),
        (1.955, "M helps D: the sign of L_adv is wrong."),
        (1.825, "D's loss has left its gradient in M: detach M's pictures in line 3."),
    ]
    expect_not("M's weight after one_step", m, 2.025, mistakes_of_M)
    expect_close("M's weight after one_step", m, 2.025, "The cap acts on each face, then the mean.")
    expect(
        isinstance(terms, (tuple, list)) and len(terms) == 2,
        "one_step must return two numbers, L_adv and L_l1.",
    )
    expect_close("L_adv, the first number of one_step", terms[0], -1.8, "-(1.4 + 2.2) / 2.")
    expect_close("L_l1, the second number of one_step", terms[1], 0.1, "0.05 * (1 + 3) / 2.")
    expect(
        D.seen[-1],
        "one_step leaves D as it is in training in line 9: use frozen(D) there, or its buffers"
        " move and its weights collect M's gradient.",
    )
    calls = len(D.modes)
    w, m, _ = step()
    expect(
        abs(w - 0.3975) < 1e-3 and abs(m - 2.03488) < 1e-3,
        f"a second one_step gives w = {w:g} and m = {m:g}, expected 0.3975 and 2.03488: clear each"
        " player's gradients, zero_grad(), before its backward.",
    )
    expect(
        D.modes[calls],
        "one_step leaves D in eval mode, in which it would learn in the next step: put it back into"
        " training mode after line 9, as frozen does.",
    )
    well_done("D moved, then M, and each left the other alone.")


def check_random_label_targets(random_label_targets):
    """Four people, many draws: never the true one, each other one equally often."""
    torch.manual_seed(0)
    labels = torch.arange(4).repeat(3000)
    got = call("random_label_targets", random_label_targets, labels.clone(), 4)
    expect(
        torch.is_tensor(got) and got.shape == labels.shape and got.dtype == torch.int64,
        f"random_label_targets must return a tensor {tuple(labels.shape)} of int64 (labels), yours"
        f" is {tuple(got.shape) if torch.is_tensor(got) else ''}"
        f" {getattr(got, 'dtype', type(got).__name__)}.",
    )
    expect(
        0 <= int(got.min()) and int(got.max()) <= 3,
        f"random_label_targets gives {int(got.min())} to {int(got.max())}; the people are 0 to 3:"
        " take the remainder, % identities.",
    )
    same = int((got == labels).sum())
    expect(
        same == 0,
        f"random_label_targets gives {same} of {len(labels)} faces their true label: it must be"
        " another person.",
    )
    # (4, 4)
    share = (
        torch.stack([torch.bincount(got[labels == person], minlength=4) for person in range(4)])
        / 3000
    )
    wanted = (1 - torch.eye(4)) / 3
    off = (share - wanted).abs()
    if off.max() > 0.05:
        person, other = divmod(int(off.argmax()), 4)
        raise Wrong(
            f"random_label_targets is not even: person {person} becomes {other} in"
            f" {share[person, other].item():.0%} of the draws, expected 33%. Each of the others"
            " must be equally likely: add 1 to N - 1 to the label, modulo N."
        )
    again = call("random_label_targets", random_label_targets, labels.clone(), 4)
    expect(
        not torch.equal(got, again),
        "random_label_targets gives the same names at every call: they must be drawn anew each"
        " time.",
    )
    well_done(
        "Another person each time. The paper gives this changing target as the reason for the blur."
    )


# ------------------------------------------------------------------ what the check cells call

loss_of_D = exercise(check_loss_of_D, our_loss_of_D)
frozen = exercise(check_frozen, our_frozen)
modifier_adversarial = exercise(check_modifier_adversarial, our_modifier_adversarial)
one_step = exercise(check_one_step, our_one_step)
random_label_targets = exercise(check_random_label_targets, our_random_label_targets)
