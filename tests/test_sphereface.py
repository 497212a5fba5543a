"""D: sizes by arithmetic, the residual unit and the head against hand-written tensor code."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ppad.sphereface import AngularMarginHead, ResidualUnit, SphereFace, SphereFaceConfig


def toy():
    """In a function, because a graded file may have no working config and still a right head."""
    return SphereFace(SphereFaceConfig(depth=4, width=8, embedding=16, input_size=(56, 48)))


def count(module):
    return sum(p.numel() for p in module.parameters())


def kernels(module):
    """The weights of its convs."""
    return [p for p in module.parameters() if p.ndim == 4]


def prelu(y, slope):
    return torch.where(y > 0, y, slope[None, :, None, None] * y)


def by_hand_count(units, width=64, embedding=512, pixels=7 * 6):
    total = 0
    c_in = 3
    for stage, n in enumerate(units):
        c = width * 2**stage
        total += 9 * c_in * c + c + c  # conv, bias, PReLU
        total += 2 * n * (9 * c * c + c + c)
        c_in = c
    return total + c_in * pixels * embedding + embedding


@pytest.mark.parametrize(
    "depth, units, parameters",
    [
        (20, (1, 2, 4, 1), 22_670_656),
        (10, (0, 1, 2, 0), 15_219_264),
        (4, (0, 0, 0, 0), 12_562_496),
    ],
)
@pytest.mark.rubric(
    "depth and parameter count are SphereFace's",
    points=3,
    hint="Residual units per stage: 1, 2, 4, 1 for depth 20, 0, 1, 2, 0 for depth 10, none for "
    "depth 4; channels double from stage to stage. Too many parameters: a norm or a second bias. "
    "Too few: one slope a layer, where PReLU has one slope per channel, or no bias. Padding 1 and "
    "stride 2 halve a side rounding up, and fc5 is sized to what is left.",
)
def test_depth_and_parameters_without_fc6(depth, units, parameters):
    with torch.device("meta"):
        recognizer = SphereFace(SphereFaceConfig(depth=depth))
        assert recognizer(torch.empty(2, 3, 112, 96)).shape == (2, 512)
    assert len(kernels(recognizer)) == depth
    assert count(recognizer) == by_hand_count(units) == parameters
    assert sum(isinstance(layer, ResidualUnit) for layer in recognizer.modules()) == sum(units)


def test_stage_shapes_of_the_paper_network():
    with torch.device("meta"):
        x = torch.empty(1, 3, 112, 96)
        shapes = []
        for layer in SphereFace().stages:
            x = layer(x)
            shapes.append(tuple(x.shape[1:]))
    one = (64, 56, 48)
    two = (128, 28, 24)
    three = (256, 14, 12)
    four = (512, 7, 6)
    assert shapes == [one] * 2 + [two] * 3 + [three] * 5 + [four] * 2


@pytest.mark.parametrize("input_size, left", [((56, 48), 4 * 3), ((64, 64), 16), ((33, 17), 3 * 2)])
@pytest.mark.rubric("depth and parameter count are SphereFace's")
def test_fc5_fits_any_input_size(input_size, left):
    config = SphereFaceConfig(depth=10, width=4, embedding=16, input_size=input_size)
    recognizer = SphereFace(config)
    assert recognizer(torch.zeros(2, 3, *input_size)).shape == (2, 16)
    assert count(recognizer) == by_hand_count((0, 1, 2, 0), 4, 16, left)


@pytest.mark.rubric(
    "a residual unit is x + PReLU(conv(PReLU(conv(x))))",
    points=3,
    hint="Both activations come before the sum and none after it: an activation after the sum is "
    "ResNet's block, not this one. PReLU has one slope per channel, each conv a bias and padding "
    "1.",
    helper="ResidualUnit",
)
def test_residual_unit_is_the_formula(use_order):
    torch.manual_seed(0)
    unit = ResidualUnit(3).double()
    for parameter in unit.parameters():
        nn.init.normal_(parameter, std=0.5)
    x = torch.randn(2, 3, 5, 4).double()
    with use_order() as used:
        unit(x)
    w1, b1, a1, w2, b2, a2 = (p.detach() for p in used.parameters)
    inner = prelu(F.conv2d(x, w1, b1, padding=1), a1)
    wanted = x + prelu(F.conv2d(inner, w2, b2, padding=1), a2)
    torch.testing.assert_close(unit(x), wanted)
    assert not torch.equal(a1, torch.full_like(a1, a1[0].item()))  # one slope per channel


@pytest.mark.rubric(
    "the whole network is the table's",
    points=3,
    hint="Each stage begins with its stride-2 conv and PReLU, and its residual units follow. fc5 "
    "reads (C, h, w) flattened in that order and has no activation: an embedding may be negative. "
    "A normalized embedding has lost its length, which A-Softmax uses.",
)
def test_forward_equals_the_network_written_out_by_hand(use_order):
    """Depth 10, every weight and slope at random: strides, order, the one sum a unit, and fc5
    without activation.
    """
    torch.manual_seed(0)
    recognizer = SphereFace(
        SphereFaceConfig(depth=10, width=2, embedding=5, input_size=(20, 12))
    ).double()
    for parameter in recognizer.parameters():
        nn.init.normal_(parameter, std=0.3)
    x = torch.randn(2, 3, 20, 12).double()
    with use_order() as used:
        out = recognizer(x)
    weights = iter([p.detach() for p in used.parameters])

    def layer(h, stride=1):
        w = next(weights)
        b = next(weights)
        slope = next(weights)
        return prelu(F.conv2d(h, w, b, stride=stride, padding=1), slope)

    h = x
    for units in (0, 1, 2, 0):
        h = layer(h, stride=2)
        for _ in range(units):
            h = h + layer(layer(h))
    assert h.shape == (2, 16, 2, 1)
    w, b = weights
    torch.testing.assert_close(out, h.reshape(2, -1) @ w.T + b)


@pytest.mark.rubric(
    "weights start as the original's",
    points=2,
    hint="Caffe's xavier is uniform up to sqrt(3 / fan_in), which torch's xavier_uniform_ is not; "
    "convs inside residual units are normal with standard deviation 0.01; biases 0, slopes 0.25.",
    helper="ResidualUnit",
)
def test_initialization():
    torch.manual_seed(0)
    recognizer = SphereFace(SphereFaceConfig(depth=20, width=16, embedding=64))
    units = [unit for unit in recognizer.modules() if isinstance(unit, ResidualUnit)]
    inside_units = {id(weight) for unit in units for weight in kernels(unit)}
    assert len(inside_units) == 16
    slopes = 0
    for weight in recognizer.parameters():
        if weight.ndim == 1:
            assert weight.eq(0).all() or weight.eq(0.25).all()
            slopes += weight.eq(0.25).all()
        elif id(weight) in inside_units:
            assert abs(weight.std().item() - 0.01) < 0.05 * 0.01
            assert weight.abs().max() > 0.025  # a uniform of that std would end at 0.0173
        else:
            bound = math.sqrt(3 / weight[0].numel())
            assert 0.98 * bound < weight.abs().max() <= bound
            assert abs(weight.std().item() - bound / math.sqrt(3)) < 0.1 * bound
    assert slopes == 20
    head = AngularMarginHead(64, 500).weight
    bound = math.sqrt(3 / 64)
    assert 0.98 * bound < head.abs().max() <= bound


@pytest.mark.rubric(
    "an embedding depends on its own picture only",
    points=2,
    hint="There is no batch norm anywhere, and no other state: a face must get the same embedding "
    "alone and in a batch, in training and in testing.",
)
def test_an_embedding_depends_on_its_own_picture_only():
    torch.manual_seed(0)
    recognizer = toy().train()
    x = torch.randn(3, 3, 56, 48)
    alone = torch.cat([recognizer(one[None]) for one in x])
    torch.testing.assert_close(recognizer(x), alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(alone[0], alone[1], atol=1e-3)
    assert recognizer(x[:0]).shape == (0, 16)
    assert not list(recognizer.buffers())


@pytest.mark.rubric(
    "the head gives cosines and lengths",
    points=3,
    hint="Divide both the embedding and each row of `weight` by their lengths; no bias; norms keep "
    "their last axis, (B, 1), and their gradient: norms detached teach D no length. Rounding "
    "leaves 1.0000001: clamp the cosines to [-1, 1]. A zero embedding gives 0, not nan.",
)
def test_head_gives_cosines_and_lengths():
    head = AngularMarginHead(2, 3)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[5.0, 0.0], [0.0, 0.1], [-1.0, -1.0]]))
    cosines, norms = head(torch.tensor([[3.0, 4.0], [-2.0, 0.0]]))
    r = math.sqrt(0.5)
    wanted = torch.tensor([[0.6, 0.8, -1.4 * r], [-1.0, 0.0, r]])
    torch.testing.assert_close(cosines, wanted)
    torch.testing.assert_close(norms, torch.tensor([[5.0], [2.0]]))


@pytest.mark.rubric(
    "the head normalizes its weight at every forward",
    points=2,
    hint="Normalize `weight` inside forward, each time, and inside the graph: normalized once at "
    "the start, its rows grow with the first update; under no_grad or detached, the gradient "
    "would push along them.",
)
def test_head_forgets_the_length_of_its_weights_at_every_forward():
    torch.manual_seed(0)
    head = AngularMarginHead(16, 7)
    x = torch.randn(4, 16)
    before, _ = head(x)
    with torch.no_grad():
        head.weight *= torch.rand(7, 1) * 10 + 0.1
    torch.testing.assert_close(head(x)[0], before)
    # So the loss cannot grow a weight: its gradient stands at right angles to it.
    head(x)[0].pow(3).sum().backward()
    along = (head.weight * head.weight.grad).sum(dim=1)
    assert head.weight.grad.abs().sum() > 0
    torch.testing.assert_close(along, torch.zeros(7), atol=1e-5, rtol=0)


@pytest.mark.rubric("the head gives cosines and lengths")
def test_norms_have_their_gradient():
    """A length grows fastest along its own direction: the gradient is the unit vector."""
    x = torch.tensor([[3.0, 4.0], [0.0, -2.0]], requires_grad=True)
    AngularMarginHead(2, 3)(x)[1].sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([[0.6, 0.8], [0.0, -1.0]]))


@pytest.mark.rubric("the head gives cosines and lengths")
def test_cosines_stay_cosines_and_zero_embeddings_are_no_nan():
    torch.manual_seed(0)
    head = AngularMarginHead(512, 200)
    aligned = head.weight.detach() * 37.0  # 200 true cosines of 1: rounding takes some past it
    cosines, _ = head(aligned)
    assert cosines.max() <= 1 and cosines.min() >= -1
    zero = torch.zeros(1, 512, requires_grad=True)
    cosines, norms = head(zero)
    (norms * cosines).sum().backward()
    assert cosines.eq(0).all() and norms.eq(0).all()
    assert zero.grad.isfinite().all(), "the gradient of a zero embedding is not finite"


@pytest.mark.rubric("the head normalizes its weight at every forward")
def test_head_gradients_match_numeric_ones():
    torch.manual_seed(0)
    head = AngularMarginHead(5, 4).double()
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)

    def outputs(x, weight):
        return torch.func.functional_call(head, {"weight": weight}, (x,))

    assert torch.autograd.gradcheck(outputs, (x, head.weight))


@pytest.mark.parametrize("shape", [(3, 56, 48), (1, 1, 56, 48), (1, 3, 48, 56), (1, 3, 112, 96)])
@pytest.mark.rubric(
    "wrong shapes and settings are refused",
    points=2,
    hint="Raise ValueError naming the field and the shape wanted: faces (B, 3, height, width), in "
    "this order, embeddings (B, E), every setting of the config.",
)
def test_wrong_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="faces.*56.*48"):
        toy()(torch.zeros(shape))


@pytest.mark.parametrize(
    "field, value", [("depth", 18), ("width", 0), ("embedding", 0), ("input_size", (0, 96))]
)
@pytest.mark.rubric("wrong shapes and settings are refused")
def test_wrong_settings_are_refused(field, value):
    with pytest.raises(ValueError, match=field):
        SphereFaceConfig(**{field: value})


@pytest.mark.rubric("wrong shapes and settings are refused")
def test_wrong_heads_are_refused():
    with pytest.raises(ValueError, match="identities"):
        AngularMarginHead(16, 0)
    with pytest.raises(ValueError, match="embeddings.*16"):
        AngularMarginHead(16, 3)(torch.zeros(2, 8))
