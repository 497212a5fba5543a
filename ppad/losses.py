"""The losses of the paper: D's angular softmax, equations 1 to 4, and M's adversarial term.

Paper: Ren, Lee, Ryoo, ECCV 2018, section 3.1 (equations), section 5.6 (the ablation with random
labels); the angular softmax ("A-Softmax") is Liu et al., CVPR 2017, the paper's [26].

The game. The paper solves  arg min over M, A  max over D  of  L_det + L_adv + L_l1:

    A  lowers L_det: detect the actions in frames whose faces M has changed.
    D  raises L_adv = -L_D(M(f)) - L_D(f): it lowers its own classification loss L_D on
       modified and on original faces.
    M  lowers all three: help A, make D fail, stay close to the original picture.

A-Softmax. A softmax classifier with unit-length class directions has logits |x| cos(theta_j).
A-Softmax replaces the true class's cos(theta) by psi(theta), which falls about four times faster:
a face must lie closer, in angle, to its own direction, so new people can be compared by angle.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

# Liu et al.'s public training file: 5 is reached at t = 1,659.
ORIGINAL_SCHEDULE = {"base": 1000.0, "gamma": 0.12, "floor": 5.0}
# The widely used PyTorch port of it: 5 is reached at t = 2,990.
PYTORCH_PORT_SCHEDULE = {"base": 1500.0, "gamma": 0.1, "floor": 5.0}

# Equation 1, by torchvision's names: RPN classification and regression, then Fast R-CNN's.
DETECTION_LOSSES = ("loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg")

# ------------------------------------------------------------------ the angular margin


def psi(cosine: torch.Tensor, m: int = 4) -> torch.Tensor:
    """The margin function: psi(theta) = (-1)^k cos(m theta) - 2k, k = floor(m theta / pi).

    cosine: cos(theta), any shape, in [-1, 1]. m: the margin, 1 to 4; 4 in Liu et al. and in the
    paper; 1 gives cos(theta) back. Returns the same shape: from 1 at 0 degrees psi falls to 1 - 2m
    at 180, each piece a slice of cos(m theta), flipped and shifted to continue the one before.

    cos(m theta) is a polynomial in cos(theta) (Chebyshev), so acos, whose slope is infinite at
    +-1, is not needed. k counts the borders cos(j pi / m) passed and has no gradient. On a border
    itself, the k of either side gives the same value and the same slope, 0; a k computed from
    sign(cos), which is 0 at 0, would not.
    Source: Liu et al. 2017, section 3.2. Raises ValueError for another m.
    """
    _check_margin(m)
    previous = torch.ones_like(cosine)
    cosine_of_multiple = cosine
    for _ in range(m - 1):  # cos((n+1) t) = 2 cos(t) cos(n t) - cos((n-1) t)
        following = 2 * cosine * cosine_of_multiple - previous
        previous = cosine_of_multiple
        cosine_of_multiple = following

    k = torch.zeros_like(cosine)
    for j in range(1, m):
        k = k + (cosine < math.cos(j * math.pi / m)).to(cosine.dtype)
    sign = 1 - 2 * (k % 2)  # (-1)^k
    return sign * cosine_of_multiple - 2 * k


def lambda_schedule(
    step: int, base: float = 1000.0, gamma: float = 0.12, floor: float = 5.0
) -> float:
    """The weight lambda of the plain cosine after `step` updates of D (0 = before the first).

    lambda = max(floor, base / (1 + gamma * step)). Large: almost no margin. 0: the margin alone.
    The defaults are ORIGINAL_SCHEDULE; PYTORCH_PORT_SCHEDULE is the other published one. Raises
    ValueError for a negative step.
    """
    if step < 0:
        raise ValueError(f"step must be 0 or more, but is {step}.")
    return max(floor, base / (1 + gamma * step))


class ASoftmaxLoss(nn.Module):
    """L_D: softmax cross-entropy with an angular margin on the true class (Liu et al. 2017).

        logit_j = |x| cos(theta_j)                                              j not the label
        logit_y = |x| (lambda cos(theta_y) + psi(theta_y)) / (1 + lambda)       y the label

    m: the margin, 1 to 4 (see `psi`). base, gamma, floor: see `lambda_schedule`.
    With m = 1 or floor = math.inf there is no margin and this is plain softmax cross-entropy.
    scale: 0 keeps the embedding's own norm |x|, as the paper; a number replaces it (ours, for the
    small presets). With a free norm and a margin, a D that recognizes few faces lowers its loss
    by letting every |x| go to 0, and M's gradient, which is proportional to |x|, vanishes.

    Two known mistakes, neither of which raises an error:

    1. *The margin never acts.* A new loss object for each step, each epoch or after a resume starts
       again at lambda ~ 1000, which is almost no margin. So the number of D's updates is kept in
       the buffer `step`, int64, in state_dict. Make one object, save it with D, and call
       `advance()` once after each update *of D*. forward never advances: M computes L_D too.
    2. *The margin starts over.* A D initialized from weights that were trained down to lambda = 5
       (as the paper's is) would forget at 1000. Use `ASoftmaxLoss(base=5, floor=5)`.

    Raises ValueError for settings that do not make a falling lambda >= 0, and for scale < 0 or nan.
    """

    def __init__(
        self,
        m: int = 4,
        base: float = 1000.0,
        gamma: float = 0.12,
        floor: float = 5.0,
        scale: float = 0.0,
    ):
        super().__init__()
        _check_margin(m)
        self.schedule = {"base": base, "gamma": gamma, "floor": floor}
        for name, value in {**self.schedule, "scale": scale}.items():
            if not value >= 0:
                raise ValueError(f"{name} must be 0 or more, but is {value}.")
        self.m = m
        self.scale = scale
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    @property
    def margin_lambda(self) -> float:
        """The lambda that the next forward will use."""
        return lambda_schedule(int(self.step), **self.schedule)

    def _apply(self, fn, recurse=True):
        """As nn.Module's, but `.to("cuda")` leaves `step` on the CPU: no GPU sync to read it."""
        step = self.step
        super()._apply(fn, recurse)
        self.step = step
        return self

    def advance(self) -> None:
        """Count one update of D."""
        self.step += 1

    def forward(
        self,
        cosines: torch.Tensor,
        norms: torch.Tensor,
        labels: torch.Tensor,
        reduction: str = "mean",
        margin: bool = True,
    ) -> torch.Tensor:
        """cosines (B, N) in [-1, 1], norms (B, 1) >= 0, both from `AngularMarginHead`; labels
        (B,) int64 in 0..N-1, best on the CPU, where checking them needs no GPU sync. Returns the
        loss in nats: a scalar for "mean", (B,) for "none". margin=False leaves the margin out.

        Raises ValueError for shapes, types, labels or reductions other than these.
        """
        if cosines.ndim != 2:
            raise ValueError(f"cosines must be (B, N), but is {tuple(cosines.shape)}.")
        batch, identities = cosines.shape
        # (B,) would broadcast against (B, N) and scale the wrong axis whenever B equals N.
        if tuple(norms.shape) != (batch, 1):
            raise ValueError(f"norms must be ({batch}, 1), but is {tuple(norms.shape)}.")
        _check_labels(labels, identities)
        if len(labels) != batch:
            raise ValueError(f"labels must be ({batch},), but is {tuple(labels.shape)}.")
        if reduction not in ("mean", "none"):
            raise ValueError(f'reduction must be "mean" or "none", but is {reduction!r}.')
        labels = labels.to(cosines.device, non_blocking=cosines.device.type != "cpu")
        if margin:
            # lambda / (1 + lambda) written so that an infinite lambda is plain softmax, not NaN.
            share = 1 / (1 + self.margin_lambda)
            index = labels[:, None]  # (B, 1)
            true = cosines.gather(1, index)  # (B, 1), cosine to the true identity
            with_margin = (1 - share) * true + share * psi(true, self.m)  # (B, 1)
            cosines = cosines.scatter(1, index, with_margin)  # (B, N)
        length = self.scale if self.scale else norms  # a number or (B, 1)
        logits = length * cosines  # (B, N)
        return F.cross_entropy(logits, labels, reduction=reduction)


def _check_margin(m: int) -> None:
    if m not in (1, 2, 3, 4):
        raise ValueError(f"m must be 1, 2, 3 or 4, but is {m}.")


def _check_labels(labels: torch.Tensor, identities: int) -> None:
    if labels.ndim != 1 or labels.dtype != torch.int64:
        raise ValueError(f"labels must be (B,) int64, but is {tuple(labels.shape)} {labels.dtype}.")
    # cross_entropy would silently ignore a label of -100.
    if not ((labels >= 0) & (labels < identities)).all():
        span = f"{labels.min()}..{labels.max()}"
        raise ValueError(f"labels must lie in 0..{identities - 1}, but span {span}.")


# ------------------------------------------------------------------ the paper's equations


def loss_det(losses: dict[str, torch.Tensor]) -> torch.Tensor:
    """Equation 1: L_det, the sum of the four losses of Faster R-CNN, unweighted.

    losses: scalars under the four names in DETECTION_LOSSES, as torchvision's detector gives
    them in training. Returns a scalar. Raises ValueError when a name is missing (a term was
    forgotten) or unknown (a term would be dropped silently).
    """
    if set(losses) != set(DETECTION_LOSSES):
        raise ValueError(f"losses must be {DETECTION_LOSSES}, but is {tuple(losses)}.")
    return sum(map(losses.get, DETECTION_LOSSES))


def loss_adv(loss_modified: torch.Tensor, loss_original: torch.Tensor) -> torch.Tensor:
    """Equation 2: L_adv = -E[L_D(M(f), i_f)] - E[L_D(f, i_f)], both means over a batch.

    loss_modified, loss_original: scalars, D's loss on modified and on original faces. Returns a
    scalar. D raises it (its optimizer minimizes `-loss_adv(...)`); M lowers it, and only the
    first term depends on M.
    """
    return -loss_modified - loss_original


def loss_l1(modified: torch.Tensor, original: torch.Tensor, weight: float) -> torch.Tensor:
    """Equation 3: L_l1 = E[lambda |M(f) - f|_1], which preserves pose, lighting and background.

    modified, original: same shape, (B, 3, S, S) in [-1, 1]. weight: the paper's lambda (not
    the margin's), called "relatively small" without a value. Returns a scalar in
    [0, 2 weight]. Raises ValueError if the shapes differ, which broadcasting would hide.

    The paper has lambda in equation 3 and again in Algorithm 1; we apply it once, here. |.|_1 is
    the mean over pixels and channels, not their sum, as in Zhu et al.
    """
    if modified.shape != original.shape:
        shapes = f"{tuple(modified.shape)} and {tuple(original.shape)}"
        raise ValueError(f"modified and original must have one shape, but are {shapes}.")
    return weight * (modified - original).abs().mean()


def full_objective(det: torch.Tensor, adv: torch.Tensor, l1: torch.Tensor) -> torch.Tensor:
    """Equation 4: L = L_det + L_adv + L_l1, three scalars to one; M and A lower it (line 9 of
    Algorithm 1). lambda is inside L_l1 already (see `loss_l1`)."""
    return det + adv + l1


# ------------------------------------------------------------------ M's side of equation 2


def modifier_adversarial(per_sample_loss_D: torch.Tensor, cap: float) -> torch.Tensor:
    """M's adversarial term: -mean(min(L_D(M(f), i_f), cap)), to be minimized with the rest.

    per_sample_loss_D: (B,), D's loss on each modified face with its *true* identity
    (`reduction="none"`), in nats, B >= 1. cap: nats, > 0; math.inf is the paper's own term.
    Returns a scalar in [-cap, 0].

    The paper (Algorithm 1, section 5.6) does gradient ascent on L_D, which has no upper bound:
    -L_D can fall forever and outweigh L_det and L_l1. The cap (ours) says when M has done enough: a
    D that gives N identities equal chances has a plain softmax loss of log N. A higher loss rewards
    M for D being *sure of somebody else*, for instance by swapping identities, which a recognizer
    trained on M's outputs learns. A face above the cap gives no gradient.

    For log N to mean chance, M needs `margin=False`. With the margin, D's loss can exceed log N
    even if D is right: with N = 20, |x| = 10, a cosine of 0.3 to the true identity and 0 to the
    rest, the plain loss is 0.67 and the A-Softmax loss at lambda = 5 is 4.37, above log 20 = 3.00.

    Raises ValueError if the losses are not (B,) with B >= 1, or the cap is not positive.
    """
    if per_sample_loss_D.ndim != 1 or len(per_sample_loss_D) == 0:
        shape = tuple(per_sample_loss_D.shape)
        raise ValueError(f"per_sample_loss_D must be (B,) with B >= 1, but is {shape}.")
    if not cap > 0:
        raise ValueError(f"cap must be above 0 nats, but is {cap}.")
    # Capped per face: with a cap on the mean, one large loss would hide all the others.
    return -per_sample_loss_D.clamp(max=cap).mean()


def modifier_entropy(logits: torch.Tensor) -> torch.Tensor:
    """Another term for M (ours): minus the entropy of D's softmax, in nats.

    logits: (B, N), D's without margin. Returns a scalar in [-log N, 0], to be minimized: -log N
    if D finds all identities equally likely. It uses no label, so M gains nothing by making every
    face look like one other person. Source: Wu et al., "Privacy-Preserving Deep Action
    Recognition", TPAMI 2020.
    """
    log_p = logits.log_softmax(dim=1)  # (B, N)
    return (log_p.exp() * log_p).sum(dim=1).mean()


def modifier_non_saturating(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Another term for M (ours): mean of -log(1 - p), p being D's probability of the true identity.

    logits: (B, N), D's without margin, N >= 2. labels: (B,) int64, the true ones. Returns a scalar
    >= 0, to be minimized. Ascent on L_D = -log p has the slope 1 - p in the true logit, near 0 if
    D is sure. This term has the slope p, which is largest there. A face with p < 1/N, below chance,
    has no gradient. Source: the generator's loss of GANs in the same form (Goodfellow et al. 2014).

    1 - p is not computed from p: where fp32 rounds p to 1, its logarithm would be -inf and the
    gradient nan. log(1 - p) = logsumexp of the other logits - logsumexp of all.
    """
    index = labels.to(logits.device, non_blocking=logits.device.type != "cpu")[:, None]  # (B, 1)
    log_all = logits.logsumexp(dim=1)  # (B,)
    log_others = logits.scatter(1, index, -math.inf).logsumexp(dim=1)  # (B,)
    log_p = logits.gather(1, index)[:, 0] - log_all  # (B,)
    below_chance = log_p <= -math.log(logits.shape[1])  # (B,)
    return (log_all - log_others).masked_fill(below_chance, 0.0).mean()


def random_label_targets(
    labels: torch.Tensor, identities: int, generator: torch.Generator | None = None
) -> torch.Tensor:
    """The paper's ablation (section 5.6): for each face some *other* identity, at random.

    labels: (B,) int64 in 0..N-1, the true ones. identities: N >= 2. generator: draws on
    its own device; None: torch's global one. Returns (B,) int64 on the labels' device, uniform
    over the N - 1 others, never the true one. In place of gradient ascent M then *minimizes*
    L_D(M(f), target); targets are new each step.
    Raises ValueError for labels outside 0..N-1 or fewer than 2 identities.
    """
    if identities < 2:
        raise ValueError(f"identities must be at least 2, but is {identities}.")
    _check_labels(labels, identities)
    device = labels.device if generator is None else generator.device
    # Adding 1..N-1 modulo N gives each other identity equally often.
    offset = torch.randint(1, identities, labels.shape, generator=generator, device=device)  # (B,)
    return (labels + offset.to(labels.device)) % identities
