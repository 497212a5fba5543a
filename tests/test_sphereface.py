"""D: sizes by arithmetic, the residual unit and the head against hand-written tensor code."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ppad.sphereface import AngularMarginHead, ResidualUnit, SphereFace, SphereFaceConfig

TOY = SphereFaceConfig(depth=4, width=8, embedding=16, input_size=(56, 48))


def count(module):
    return sum(p.numel() for p in module.parameters())


def convs(module):
    return [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]


def by_hand_count(units, width=64, embedding=512, pixels=7 * 6):
    total, c_in = 0, 3
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
def test_depth_and_parameters_without_fc6(depth, units, parameters):
    with torch.device("meta"):
        recognizer = SphereFace(SphereFaceConfig(depth=depth))
        assert recognizer(torch.empty(2, 3, 112, 96)).shape == (2, 512)
    assert len(convs(recognizer)) == depth
    assert count(recognizer) == by_hand_count(units) == parameters
    assert sum(isinstance(layer, ResidualUnit) for layer in recognizer.stages) == sum(units)


def test_stage_shapes_of_the_paper_network():
    with torch.device("meta"):
        x, shapes = torch.empty(1, 3, 112, 96), []
        for layer in SphereFace().stages:
            x = layer(x)
            shapes.append(tuple(x.shape[1:]))
    one, two, three, four = (64, 56, 48), (128, 28, 24), (256, 14, 12), (512, 7, 6)
    assert shapes == [one] * 2 + [two] * 3 + [three] * 5 + [four] * 2


@pytest.mark.parametrize("input_size, left", [((56, 48), 4 * 3), ((64, 64), 16), ((33, 17), 3 * 2)])
def test_fc5_fits_any_input_size(input_size, left):
    config = SphereFaceConfig(depth=10, width=4, embedding=16, input_size=input_size)
    recognizer = SphereFace(config)
    assert recognizer(torch.zeros(2, 3, *input_size)).shape == (2, 16)
    assert recognizer.fc5.in_features == 32 * left
    assert count(recognizer) == by_hand_count((0, 1, 2, 0), 4, 16, left)


def test_residual_unit_is_the_formula():
    torch.manual_seed(0)
    unit = ResidualUnit(3).double()
    for parameter in unit.parameters():
        nn.init.normal_(parameter, std=0.5)
    w1, b1, a1, w2, b2, a2 = (p.detach() for p in unit.parameters())
    x = torch.randn(2, 3, 5, 4).double()

    def prelu(y, slope):
        return torch.where(y > 0, y, slope[None, :, None, None] * y)

    inner = prelu(F.conv2d(x, w1, b1, padding=1), a1)
    wanted = x + prelu(F.conv2d(inner, w2, b2, padding=1), a2)
    torch.testing.assert_close(unit(x), wanted)
    assert not torch.equal(a1, torch.full_like(a1, a1[0].item()))  # one slope per channel


def test_initialisation():
    torch.manual_seed(0)
    recognizer = SphereFace(SphereFaceConfig(depth=20, width=16, embedding=64))
    inside_units = {
        id(c) for u in recognizer.stages if isinstance(u, ResidualUnit) for c in convs(u)
    }
    assert len(inside_units) == 16
    for layer in [*convs(recognizer), recognizer.fc5]:
        weight = layer.weight
        assert layer.bias.eq(0).all()
        if id(layer) in inside_units:
            assert abs(weight.std().item() - 0.01) < 0.05 * 0.01
            assert weight.abs().max() > 0.025  # a uniform of that std would end at 0.0173
        else:
            bound = math.sqrt(3 / weight[0].numel())
            assert 0.98 * bound < weight.abs().max() <= bound
            assert abs(weight.std().item() - bound / math.sqrt(3)) < 0.1 * bound
    slopes = [layer.weight for layer in recognizer.modules() if isinstance(layer, nn.PReLU)]
    assert len(slopes) == 20 and all(s.eq(0.25).all() for s in slopes)
    head = AngularMarginHead(64, 500).weight
    bound = math.sqrt(3 / 64)
    assert 0.98 * bound < head.abs().max() <= bound


def test_an_embedding_depends_on_its_own_picture_only():
    torch.manual_seed(0)
    recognizer = SphereFace(TOY).train()
    x = torch.randn(3, 3, 56, 48)
    alone = torch.cat([recognizer(one[None]) for one in x])
    torch.testing.assert_close(recognizer(x), alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(alone[0], alone[1], atol=1e-3)
    assert recognizer(x[:0]).shape == (0, 16)
    assert not list(recognizer.buffers())


def test_head_gives_cosines_and_lengths():
    head = AngularMarginHead(2, 3)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[5.0, 0.0], [0.0, 0.1], [-1.0, -1.0]]))
    cosines, norms = head(torch.tensor([[3.0, 4.0], [-2.0, 0.0]]))
    r = math.sqrt(0.5)
    wanted = torch.tensor([[0.6, 0.8, -1.4 * r], [-1.0, 0.0, r]])
    torch.testing.assert_close(cosines, wanted)
    torch.testing.assert_close(norms, torch.tensor([[5.0], [2.0]]))


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


def test_cosines_stay_cosines_and_zero_embeddings_are_no_nan():
    torch.manual_seed(0)
    head = AngularMarginHead(512, 200)
    aligned = head.weight.detach() * 37.0  # 200 true cosines of 1: rounding takes some past it
    cosines, _ = head(aligned)
    assert cosines.max() <= 1 and cosines.min() >= -1
    zero = torch.zeros(1, 512, requires_grad=True)
    cosines, norms = head(zero)
    (norms * cosines).sum().backward()
    assert cosines.eq(0).all() and norms.eq(0).all() and zero.grad.isfinite().all()


def test_head_gradients_match_numeric_ones():
    torch.manual_seed(0)
    head = AngularMarginHead(5, 4).double()
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)

    def outputs(x, weight):
        return torch.func.functional_call(head, {"weight": weight}, (x,))

    assert torch.autograd.gradcheck(outputs, (x, head.weight))


@pytest.mark.parametrize("shape", [(3, 56, 48), (1, 1, 56, 48), (1, 3, 48, 56), (1, 3, 112, 96)])
def test_wrong_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="faces must be .B, 3, 56, 48."):
        SphereFace(TOY)(torch.zeros(shape))


@pytest.mark.parametrize(
    "field, value", [("depth", 18), ("width", 0), ("embedding", 0), ("input_size", (0, 96))]
)
def test_wrong_settings_are_refused(field, value):
    with pytest.raises(ValueError, match=field):
        SphereFaceConfig(**{field: value})


def test_wrong_heads_are_refused():
    with pytest.raises(ValueError, match="identities"):
        AngularMarginHead(16, 0)
    with pytest.raises(ValueError, match="embeddings must be .B, 16."):
        AngularMarginHead(16, 3)(torch.zeros(2, 8))
