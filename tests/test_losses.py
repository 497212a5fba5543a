"""Losses: psi from its angles, A-Softmax from scalar arithmetic, gradients from differences."""

import math

import pytest
import torch
from torch.nn import functional as F

from ppad.losses import (
    DETECTION_LOSSES,
    PYTORCH_PORT_SCHEDULE,
    ASoftmaxLoss,
    full_objective,
    lambda_schedule,
    loss_adv,
    loss_det,
    loss_l1,
    modifier_adversarial,
    modifier_entropy,
    modifier_non_saturating,
    psi,
    random_label_targets,
)

# Degrees and psi for m = 4, worked out by hand from the definition.
VECTOR = [
    (0, 1.0), (10, 0.766044), (30, -0.5), (45, -1.0), (60, -1.5),
    (90, -3.0), (120, -4.5), (135, -5.0), (150, -5.5), (180, -7.0),
]  # fmt: skip


def psi_of_angle(theta, m):
    k = min(int(m * theta / math.pi), m - 1)
    return (-1) ** k * math.cos(m * theta) - 2 * k


def batch(size=6, identities=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    cosines = torch.rand(size, identities, generator=generator, dtype=torch.float64) * 1.9 - 0.95
    norms = torch.rand(size, 1, generator=generator, dtype=torch.float64) * 10 + 1
    labels = torch.randint(0, identities, (size,), generator=generator)
    return cosines, norms, labels


# ------------------------------------------------------------------ psi


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.rubric(
    "psi is continuous and decreasing",
    points=4,
    hint="psi = (-1)^k cos(m theta) - 2k with k = floor(m theta / pi). Without the sign (-1)^k of "
    "its piece, or without its -2k, psi jumps or rises again; on a border itself either "
    "neighbor's k will do, sign(cos), which is 0 at 0, will not.",
    helper="psi",
)
def test_psi_test_vector(dtype):
    cosines = torch.tensor([math.cos(math.radians(d)) for d, _ in VECTOR], dtype=dtype)
    wanted = torch.tensor([value for _, value in VECTOR], dtype=dtype)
    torch.testing.assert_close(psi(cosines), wanted, atol=2e-6, rtol=0)


@pytest.mark.parametrize("m", [1, 2, 3, 4])
@pytest.mark.rubric("psi is continuous and decreasing")
def test_psi_is_its_definition_and_never_rises(m):
    angles = torch.linspace(0, math.pi, 2001, dtype=torch.float64)
    values = psi(angles.cos(), m)
    wanted = torch.tensor([psi_of_angle(t, m) for t in angles.tolist()], dtype=torch.float64)
    torch.testing.assert_close(values, wanted, atol=1e-9, rtol=0)
    assert (values.diff() <= 1e-12).all()
    assert (values - angles.cos() <= 1e-12).all()  # never easier than the plain cosine


@pytest.mark.parametrize("m", [2, 3, 4])
@pytest.mark.rubric("psi is continuous and decreasing")
def test_psi_at_its_borders(m):
    """Exactly there and a hair to either side: one value, slope 0, no jump."""
    for j in range(1, m):
        border = math.cos(j * math.pi / m) if 2 * j != m else 0.0
        c = torch.tensor([border - 1e-7, border, border + 1e-7], dtype=torch.float64)
        c.requires_grad_()
        values = psi(c, m)
        torch.testing.assert_close(values, torch.full_like(values, 1 - 2 * j), atol=1e-5, rtol=0)
        values.sum().backward()
        torch.testing.assert_close(c.grad, torch.zeros(3).double(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("m", [1, 2, 3, 4])
@pytest.mark.rubric(
    "psi has its gradient up to both ends",
    points=2,
    hint="acos has an infinite slope at cos = +-1, and nan follows: write cos(m theta) as a "
    "polynomial in cos(theta). k counts pieces and carries no gradient. m other than 1 to 4: "
    "ValueError.",
    helper="psi",
)
def test_psi_gradient(m):
    c = torch.linspace(-0.999, 0.999, 41, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda c: psi(c, m), c)
    # And exactly at the ends, where acos would give infinity: d cos(m t) / d cos t = m^2.
    ends = torch.tensor([1.0, -1.0], dtype=torch.float64, requires_grad=True)
    psi(ends, m).sum().backward()
    torch.testing.assert_close(ends.grad, torch.full((2,), float(m * m), dtype=torch.float64))


@pytest.mark.rubric("psi has its gradient up to both ends")
def test_psi_refuses_other_margins():
    with pytest.raises(ValueError, match=r"\bm\b"):
        psi(torch.zeros(1), 5)


# ------------------------------------------------------------------ lambda


@pytest.mark.rubric(
    "lambda falls as published, and its count is kept",
    points=3,
    hint="lambda = max(floor, base / (1 + gamma * step)). Is lambda restarted by each "
    "save and load? The count of D's updates belongs in a registered buffer `step`, an int64 in "
    "state_dict. Only advance() changes it: a forward is not an update of D.",
)
def test_both_published_schedules():
    assert lambda_schedule(0) == 1000
    assert lambda_schedule(100) == pytest.approx(1000 / 13)
    assert lambda_schedule(1658) > 5 and lambda_schedule(1659) == 5
    port = PYTORCH_PORT_SCHEDULE
    assert lambda_schedule(0, **port) == 1500
    assert lambda_schedule(2989, **port) > 5 and lambda_schedule(2991, **port) == 5
    assert lambda_schedule(10, base=100, gamma=1, floor=0) == pytest.approx(100 / 11)
    with pytest.raises(ValueError, match="step"):
        lambda_schedule(-1)


@pytest.mark.rubric("lambda falls as published, and its count is kept")
def test_the_count_survives_saving_and_only_advance_moves_it():
    loss = ASoftmaxLoss()
    cosines, norms, labels = batch()
    first = loss(cosines, norms, labels)
    assert loss(cosines, norms, labels) == first and loss.margin_lambda == 1000
    for _ in range(2000):
        loss.advance()
    assert loss.margin_lambda == 5
    assert loss(cosines, norms, labels) > first
    resumed = ASoftmaxLoss()
    resumed.load_state_dict(loss.state_dict())
    assert int(resumed.step) == 2000 and resumed.step.dtype == torch.int64
    assert resumed(cosines, norms, labels) == loss(cosines, norms, labels)
    assert list(loss.parameters()) == []  # a count, not something to train


@pytest.mark.rubric("lambda falls as published, and its count is kept")
def test_a_pretrained_d_can_stay_at_the_floor():
    loss = ASoftmaxLoss(base=5, floor=5)
    assert loss.margin_lambda == 5
    loss.advance()
    assert loss.margin_lambda == 5


# ------------------------------------------------------------------ A-Softmax


@pytest.mark.parametrize("steps", [0, 3000])
@pytest.mark.parametrize("factor", [0.05, 1.0, 10.0])
@pytest.mark.rubric(
    "A-Softmax puts its margin on the true identity alone",
    points=3,
    hint="The margin belongs on the true class of each row: logit_y = |x| (lambda cos + psi) / (1 "
    "+ lambda) for y = labels, |x| cos for every other. Margin on the wrong class (the best one, "
    "or all)? lambda and 1 exchanged? |x| detached, or clamped? A softmax before cross_entropy, "
    "which takes logits? Identity 0 is a person like any other, no background to ignore. Do not "
    "write into the cosines that came in.",
)
def test_a_softmax_by_scalar_arithmetic(steps, factor):
    cosines, norms, labels = batch()
    norms = norms * factor  # from 0.05 to 110
    loss = ASoftmaxLoss()
    for _ in range(steps):
        loss.advance()
    lam = 5 if steps else 1000
    wanted = []
    for row, norm, y in zip(cosines.tolist(), norms.flatten().tolist(), labels.tolist()):
        logits = [norm * c for c in row]
        logits[y] = norm * (lam * row[y] + psi_of_angle(math.acos(row[y]), 4)) / (1 + lam)
        wanted.append(math.log(sum(map(math.exp, logits))) - logits[y])
    wanted = torch.tensor(wanted, dtype=torch.float64)
    each = loss(cosines, norms, labels, reduction="none")
    torch.testing.assert_close(each, wanted)
    torch.testing.assert_close(loss(cosines, norms, labels), wanted.mean())


@pytest.mark.rubric(
    "A-Softmax without margin is plain softmax, and scale replaces the norm",
    points=2,
    hint="margin=False and m = 1 leave cosines times a length; so does an infinite lambda (1 / (1 "
    "+ lambda) is 0, lambda / (1 + lambda) is nan). scale, where it is not 0, stands in place of "
    "|x|: it does not multiply it.",
)
def test_without_margin_it_is_plain_softmax():
    cosines, norms, labels = batch()
    plain = F.cross_entropy(norms * cosines, labels)
    for loss in (ASoftmaxLoss(floor=1e12), ASoftmaxLoss(floor=math.inf), ASoftmaxLoss(m=1)):
        torch.testing.assert_close(loss(cosines, norms, labels), plain, rtol=1e-9, atol=0)
    assert ASoftmaxLoss(base=5)(cosines, norms, labels) > plain + 0.1


@pytest.mark.parametrize("settings", [{}, {"scale": 16.0}, {"base": 5.0}, {"m": 2, "scale": 3.0}])
@pytest.mark.rubric("A-Softmax without margin is plain softmax, and scale replaces the norm")
def test_margin_false_is_plain_softmax_whatever_the_margin(settings):
    """Cosines times |x| or times the fixed length, the true class like any other."""
    cosines, norms, labels = batch()
    # The margin alone where settings don't say otherwise.
    loss = ASoftmaxLoss(**{"base": 0.0, "floor": 0.0, **settings})
    length = settings.get("scale", norms)
    plain = F.cross_entropy(length * cosines, labels, reduction="none")
    each = loss(cosines, norms, labels, reduction="none", margin=False)
    torch.testing.assert_close(each, plain, rtol=1e-12, atol=1e-12)
    assert loss(cosines, norms, labels) > plain.mean() + 0.1 and int(loss.step) == 0


@pytest.mark.parametrize("steps", [0, 3000])
@pytest.mark.rubric("A-Softmax without margin is plain softmax, and scale replaces the norm")
def test_scale_stands_in_place_of_the_norm(steps):
    """Scalar arithmetic with |x| = 7 for every face; the norms that come in change nothing."""
    cosines, norms, labels = batch()
    loss = ASoftmaxLoss(scale=7.0)
    loss.step += steps
    lam = 5 if steps else 1000
    wanted = []
    for row, y in zip(cosines.tolist(), labels.tolist()):
        logits = [7 * c for c in row]
        logits[y] = 7 * (lam * row[y] + psi_of_angle(math.acos(row[y]), 4)) / (1 + lam)
        wanted.append(math.log(sum(map(math.exp, logits))) - logits[y])
    each = loss(cosines, norms, labels, reduction="none")
    torch.testing.assert_close(each, torch.tensor(wanted, dtype=torch.float64))
    assert torch.equal(each, loss(cosines, 100 * norms, labels, reduction="none"))


@pytest.mark.rubric("A-Softmax without margin is plain softmax, and scale replaces the norm")
def test_scale_by_closed_form():
    """At 90 degrees to every direction, psi is -3 and the other cosines are 0.

    So the loss is log(N - 1 + e^-3s) + 3s, and log N without margin.
    """
    cosines = torch.zeros(1, 5).double()
    norms = torch.ones(1, 1).double()
    labels = torch.tensor([2])
    loss = ASoftmaxLoss(base=0, floor=0, scale=0.5)
    assert loss(cosines, norms, labels).item() == pytest.approx(math.log(4 + math.exp(-1.5)) + 1.5)
    assert loss(cosines, norms, labels, margin=False).item() == pytest.approx(math.log(5))


@pytest.mark.rubric("A-Softmax without margin is plain softmax, and scale replaces the norm")
def test_scale_gives_the_norm_no_gradient():
    """With a free norm a wrong D can lower its loss by shrinking |x|, with a fixed one not."""
    cosines, norms, labels = batch()
    norms.requires_grad_()
    ASoftmaxLoss(base=0, floor=0)(cosines, norms, labels).backward()
    assert norms.grad.mean() > 0  # descent shrinks them
    cosines.requires_grad_()
    gradient = torch.autograd.grad(
        ASoftmaxLoss(scale=5.0)(cosines, norms, labels), norms, allow_unused=True
    )
    assert gradient[0] is None or gradient[0].eq(0).all()


@pytest.mark.parametrize("scale", [-1.0, float("nan")])
@pytest.mark.rubric(
    "A-Softmax refuses bad input",
    points=1,
    hint="Raise ValueError naming the field: norms must be (B, 1), since (B,) would broadcast "
    "along the wrong axis; labels (B,) int64 in 0..N-1, since cross_entropy silently "
    "ignores -100; settings must be 0 or more.",
)
def test_scale_refuses_what_is_no_length(scale):
    with pytest.raises(ValueError, match="scale"):
        ASoftmaxLoss(scale=scale)


@pytest.mark.parametrize(
    "settings", [{}, {"base": 5.0}, {"base": 0.0, "floor": 0.0}, {"m": 3}, {"scale": 4.0}]
)
@pytest.mark.rubric("A-Softmax puts its margin on the true identity alone")
def test_a_softmax_gradient(settings):
    cosines, norms, labels = batch()
    loss = ASoftmaxLoss(**settings)
    inputs = (cosines.requires_grad_(), norms.requires_grad_())
    assert torch.autograd.gradcheck(lambda c, n: loss(c, n, labels, reduction="none"), inputs)


@pytest.mark.rubric("A-Softmax puts its margin on the true identity alone")
def test_inputs_are_left_as_they_were():
    cosines, norms, labels = batch()
    kept = cosines.clone()
    ASoftmaxLoss(base=5)(cosines, norms, labels)
    assert torch.equal(cosines, kept)


@pytest.mark.rubric("A-Softmax refuses bad input")
def test_a_softmax_refuses_bad_input():
    cosines, norms, labels = batch()
    loss = ASoftmaxLoss()
    with pytest.raises(ValueError, match="norms"):
        loss(cosines, norms[:, 0], labels)
    with pytest.raises(ValueError, match="cosines"):
        loss(cosines[0], norms, labels)
    for bad in (labels + 5, labels - 100, labels.int(), labels[:, None], labels[:-1]):
        with pytest.raises(ValueError, match="labels"):
            loss(cosines, norms, bad)
    with pytest.raises(ValueError, match="reduction"):
        loss(cosines, norms, labels, reduction="sum")
    with pytest.raises(ValueError, match=r"\bm\b"):
        ASoftmaxLoss(m=0)
    with pytest.raises(ValueError, match="gamma"):
        ASoftmaxLoss(gamma=-0.1)


# ------------------------------------------------------------------ equations 1 to 4


@pytest.mark.rubric(
    "equations 1 and 3: four losses summed, one distance averaged",
    points=1,
    hint="L_det is the plain sum of all four DETECTION_LOSSES; refuse other names. |.|_1 is the "
    "mean over pixels and channels, no sum and no squares: a sum would make lambda mean something "
    "else at every size. Its weight is applied once, here.",
)
def test_equation_1():
    losses = {name: torch.tensor(10.0**i) for i, name in enumerate(DETECTION_LOSSES)}
    assert loss_det(losses) == 1111
    names = ["loss_rpn_box_reg", "loss_objectness", "loss_classifier", "loss_box_reg"]
    assert sorted(DETECTION_LOSSES) == sorted(names)
    without = {name: losses[name] for name in DETECTION_LOSSES[1:]}
    with pytest.raises(ValueError, match=DETECTION_LOSSES[0]):
        loss_det(without)
    with pytest.raises(ValueError, match="loss_mask"):
        loss_det(losses | {"loss_mask": torch.tensor(1.0)})


@pytest.mark.rubric(
    "equations 2 and 4 have the right signs",
    points=1,
    hint="Flipped adversarial sign? L_adv = -L_D(modified) - L_D(original): D raises it, M lowers "
    "it. Equation 4 is a plain sum; its lambda is inside L_l1 already.",
)
def test_equations_2_and_4_and_their_signs():
    modified = torch.tensor(3.0, requires_grad=True)
    original = torch.tensor(0.5, requires_grad=True)
    adv = loss_adv(modified, original)
    assert adv == -3.5
    adv.backward()  # M lowers L_adv by raising L_D(M(f)); D raises it by lowering both
    assert modified.grad == -1 and original.grad == -1
    assert full_objective(torch.tensor(2.0), torch.tensor(-3.5), torch.tensor(0.25)) == -1.25


@pytest.mark.rubric("equations 1 and 3: four losses summed, one distance averaged")
def test_equation_3():
    original = torch.zeros(2, 3, 4, 4)
    modified = original.clone()
    modified[0] = 0.5
    assert loss_l1(modified, original, weight=8.0) == 2.0
    big = [F.interpolate(x, scale_factor=2) for x in (modified, original)]
    assert loss_l1(*big, weight=8.0) == 2.0  # lambda means the same at every size
    with pytest.raises(ValueError, match="modified"):
        loss_l1(modified, original[:1], weight=1.0)


# ------------------------------------------------------------------ M's side


@pytest.mark.rubric(
    "M's term is minus D's loss, capped face by face",
    points=2,
    hint="M minimizes -L_D of the modified faces: with a flipped sign M would help D. The cap "
    "holds for each face alone, before the mean; under a cap on the mean, one large loss would "
    "hide all the others. A face above it gives no gradient. Chance is log N.",
)
def test_the_cap_is_per_face_and_stops_its_gradient():
    per_face = torch.tensor([0.5, 2.0, 9.0], requires_grad=True)
    loss = modifier_adversarial(per_face, cap=3.0)
    assert loss.item() == pytest.approx(-(0.5 + 2.0 + 3.0) / 3)
    loss.backward()
    torch.testing.assert_close(per_face.grad, torch.tensor([-1 / 3, -1 / 3, 0.0]))
    # Without a cap: the first term of equation 2.
    torch.testing.assert_close(modifier_adversarial(per_face, math.inf), -per_face.mean())
    with pytest.raises(ValueError, match="cap"):
        modifier_adversarial(per_face, 0.0)
    for bad in (per_face.mean(), per_face[:0]):
        with pytest.raises(ValueError, match="per_sample_loss_D"):
            modifier_adversarial(bad, 3.0)


def test_entropy_by_hand():
    p = torch.tensor([[0.5, 0.25, 0.25], [1 / 3, 1 / 3, 1 / 3]], dtype=torch.float64)
    by_hand = 0.5 * math.log(2) + 0.5 * math.log(4)  # of the first; the second has log 3
    term = modifier_entropy(p.log() + 7)  # a softmax takes no notice of a shift
    assert term.item() == pytest.approx(-(by_hand + math.log(3)) / 2)


def test_the_non_saturating_term_by_hand():
    """Its slope in the true logit is p; none below chance, and no inf where p rounds to 1."""
    p = torch.tensor([[0.75, 0.25, 0.0625], [0.2, 0.4, 0.4]], dtype=torch.float64)
    logits = p.log().requires_grad_()
    labels = torch.tensor([0, 0])
    share = 0.75 / 1.0625  # the first row does not add up to 1
    term = modifier_non_saturating(logits, labels)
    assert term.item() == pytest.approx(-math.log(1 - share) / 2)  # 0.2 is below a third
    term.backward()
    assert logits.grad[0, 0].item() == pytest.approx(share / 2)
    assert (logits.grad[1] == 0).all()
    sure = torch.tensor([[100.0, 0.0, 0.0]], requires_grad=True)
    term = modifier_non_saturating(sure, torch.tensor([0]))
    term.backward()
    assert term.item() == pytest.approx(100 - math.log(2))
    torch.testing.assert_close(sure.grad, torch.tensor([[1.0, -0.5, -0.5]]))


@pytest.mark.rubric("M's term is minus D's loss, capped face by face")
def test_log_n_is_the_loss_at_chance():
    cosines = torch.zeros(4, 7)
    norms = torch.full((4, 1), 12.0)
    labels = torch.arange(4)
    plain = ASoftmaxLoss(m=1)(cosines, norms, labels)
    assert plain.item() == pytest.approx(math.log(7), rel=1e-6)
    # With the margin at its floor the true logit is 12 * -3 / 6 = -6 and the others 0.
    margin = ASoftmaxLoss(base=5)(cosines, norms, labels)
    assert margin.item() == pytest.approx(math.log(6 + math.exp(-6)) + 6, rel=1e-6)
    # The docstring's example: D is right, and yet above log N because of the margin alone.
    cosines = torch.tensor([[0.3] + 19 * [0.0]])
    norms = torch.tensor([[10.0]])
    labels = torch.tensor([0])
    assert ASoftmaxLoss(m=1)(cosines, norms, labels).item() == pytest.approx(0.67, abs=0.005)
    assert ASoftmaxLoss(base=5)(cosines, norms, labels).item() == pytest.approx(4.37, abs=0.005)


@pytest.mark.rubric(
    "random labels: anybody but the true one",
    points=1,
    hint="A target is never the true label and falls on each of the N - 1 others equally often: "
    "add a number from 1 to N - 1, drawn from the generator given, modulo N.",
)
def test_random_targets_are_uniform_over_the_others():
    labels = torch.arange(5).repeat(4000)
    targets = random_label_targets(labels, 5, torch.Generator().manual_seed(0))
    assert targets.dtype == torch.int64 and targets.shape == labels.shape
    counts = torch.zeros(5, 5)
    counts.index_put_((labels, targets), torch.ones(len(labels)), accumulate=True)
    assert counts.diagonal().eq(0).all()
    others = counts[~torch.eye(5, dtype=torch.bool)]
    assert (others - 1000).abs().max() < 5 * math.sqrt(4000 * 0.25 * 0.75)  # 5 sigma
    again = random_label_targets(labels, 5, torch.Generator().manual_seed(0))
    assert torch.equal(targets, again)
    assert torch.equal(random_label_targets(torch.tensor([0, 1]), 2), torch.tensor([1, 0]))
    with pytest.raises(ValueError, match="identities"):
        random_label_targets(labels * 0, 1)
    with pytest.raises(ValueError, match="labels"):
        random_label_targets(labels, 4)
