"""A correct losses, written another way: psi piece by piece, and one face after the other."""

import math

import torch
from torch import nn

ORIGINAL_SCHEDULE = {"base": 1000.0, "gamma": 0.12, "floor": 5.0, "power": 1.0}
PYTORCH_PORT_SCHEDULE = {"base": 1500.0, "gamma": 0.1, "floor": 5.0, "power": 1.0}
DETECTION_LOSSES = ("loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg")

# cos(m t) as coefficients of 1, c, c^2, ... in c = cos t, and the cosines at which its pieces meet.
POLYNOMIALS = {1: (0, 1), 2: (-1, 0, 2), 3: (0, -3, 0, 4), 4: (1, 0, -8, 0, 8)}
MEETINGS = {1: (), 2: (0.0,), 3: (0.5, -0.5), 4: (math.sqrt(0.5), 0.0, -math.sqrt(0.5))}


def psi(cosine, m=4):
    if m not in POLYNOMIALS:
        raise ValueError(f"there is no margin m = {m}")
    multiple = sum(a * cosine**i for i, a in enumerate(POLYNOMIALS[m]))
    result = multiple - 0.0
    for k, border in enumerate(MEETINGS[m], start=1):
        result = torch.where(
            cosine <= border, (multiple if k % 2 == 0 else -multiple) - 2 * k, result
        )
    return result


def lambda_schedule(step, base=1000.0, gamma=0.12, floor=5.0, power=1.0):
    if step < 0:
        raise ValueError("a negative step")
    falling = base / math.pow(1 + gamma * step, power)
    return falling if falling > floor else floor


class ASoftmaxLoss(nn.Module):
    def __init__(self, m=4, base=1000.0, gamma=0.12, floor=5.0, power=1.0, scale=0.0):
        super().__init__()
        if m not in POLYNOMIALS:
            raise ValueError(f"there is no margin m = {m}")
        numbers = {"base": base, "gamma": gamma, "floor": floor, "power": power, "scale": scale}
        for name in numbers:
            if math.isnan(numbers[name]) or numbers[name] < 0:
                raise ValueError(f"{name} is {numbers[name]}")
        self.m = m
        self.numbers = numbers
        self.register_buffer("step", torch.tensor(0))

    @property
    def margin_lambda(self):
        return lambda_schedule(
            self.step.item(), *(self.numbers[name] for name in ("base", "gamma", "floor", "power"))
        )

    def advance(self):
        self.step.add_(1)

    def forward(self, cosines, norms, labels, reduction="mean", margin=True):
        if cosines.dim() != 2:
            raise ValueError("cosines: (B, N)")
        faces, people = cosines.shape
        if norms.shape != (faces, 1):
            raise ValueError("norms: (B, 1)")
        if (
            labels.shape != (faces,)
            or labels.dtype != torch.long
            or not all(0 <= y < people for y in labels.tolist())
        ):
            raise ValueError("labels: (B,), int64, 0..N-1")
        if reduction not in ("none", "mean"):
            raise ValueError("reduction: none or mean")
        each = []
        for row, norm, y in zip(cosines.unbind(), norms.unbind(), labels.tolist()):
            length = self.numbers["scale"] or norm
            own = row[y]
            if margin and not math.isinf(self.margin_lambda):
                own = (self.margin_lambda * own + psi(own, self.m)) / (1 + self.margin_lambda)
            logits = torch.cat([row[:y], own[None], row[y + 1 :]]) * length
            each.append(torch.logsumexp(logits, 0) - logits[y])
        each = torch.stack(each) if each else cosines.new_zeros(0)
        return each if reduction == "none" else each.mean()


def loss_det(losses):
    terms = dict(losses)
    try:
        total = sum(terms.pop(name) for name in DETECTION_LOSSES)
    except KeyError as missing:
        raise ValueError(f"{missing} is missing") from None
    if terms:
        raise ValueError(f"unknown: {list(terms)}")
    return total


def loss_adv(loss_modified, loss_original):
    return torch.stack([loss_modified, loss_original]).sum().neg()


def loss_l1(modified, original, weight):
    if modified.size() != original.size():
        raise ValueError("modified and original differ in shape")
    return nn.functional.l1_loss(modified, original) * weight


def full_objective(det, adv, l1):
    return sum((det, adv, l1))


def logit_chance_cap(identities):
    if identities < 2:
        raise ValueError("identities: two at least")
    return -math.log(1 / identities)


def modifier_adversarial(per_sample_loss_D, cap):
    if per_sample_loss_D.dim() != 1 or per_sample_loss_D.numel() < 1:
        raise ValueError("per_sample_loss_D: (B,)")
    if math.isnan(cap) or cap <= 0:
        raise ValueError("cap: above 0")
    counted = [
        loss if loss < cap else loss.detach() * 0 + cap for loss in per_sample_loss_D.unbind()
    ]
    return -sum(counted) / len(counted)


def random_label_targets(labels, identities, generator=None):
    if identities < 2:
        raise ValueError("identities: two at least")
    if (
        labels.dtype != torch.long
        or labels.dim() != 1
        or ((labels < 0) | (labels >= identities)).any()
    ):
        raise ValueError("labels: (B,), int64, 0..N-1")
    where = generator.device if generator is not None else labels.device
    drawn = (
        torch.rand(len(labels), generator=generator, device=where)
        .mul(identities - 1)
        .long()
        .to(labels.device)
    )
    # The N - 1 others, in order, with a gap where the true one stands.
    return drawn + (drawn >= labels).long()
