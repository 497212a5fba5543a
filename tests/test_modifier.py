"""M: parameter count and shapes by arithmetic, layers against hand-written tensor code."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ppad.modifier import Modifier, ModifierConfig, ResidualBlock, instance_norm


def small():
    """In a function, because a graded file may have no working config and still a right norm."""
    return Modifier(ModifierConfig(width=4, blocks=2, size=16))


def count(module):
    return sum(p.numel() for p in module.parameters())


def faces(batch, size=16, seed=0):
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def by_hand_count(width, blocks):
    def conv(c_in, c_out, k):
        return c_in * c_out * k * k + c_out

    w = width
    return (
        conv(3, w, 7)
        + conv(w, 2 * w, 3)
        + conv(2 * w, 4 * w, 3)
        + blocks * 2 * conv(4 * w, 4 * w, 3)
        + conv(4 * w, 2 * w, 3)
        + conv(2 * w, w, 3)
        + conv(w, 3, 7)
    )


@pytest.mark.rubric(
    "parameter count and sizes are the paper's",
    points=3,
    hint="11,378,179 parameters at the paper's size, all in convs with biases. More: a learned "
    "scale in the norms (affine) or a wider layer. Fewer: a conv without bias, a block with one "
    "conv, a block missing. The output has the input's size and lies in [-1, 1]: tanh at the end.",
)
def test_paper_network_has_the_known_parameter_count():
    assert by_hand_count(64, 9) == 11_378_179
    with torch.device("meta"):
        assert count(Modifier()) == 11_378_179
        assert count(Modifier(ModifierConfig(upsample="resize"))) == 11_378_179


@pytest.mark.parametrize("upsample", ["transposed", "resize"])
@pytest.mark.parametrize("width, blocks, size", [(4, 0, 8), (4, 2, 20), (8, 3, 32)])
@pytest.mark.rubric("parameter count and sizes are the paper's")
def test_shape_range_and_count_at_other_sizes(upsample, width, blocks, size):
    modifier = Modifier(ModifierConfig(width, blocks, size, upsample))
    out = modifier(faces(2, size))
    assert out.shape == (2, 3, size, size)
    assert out.abs().max() <= 1
    assert count(modifier) == by_hand_count(width, blocks)
    assert modifier.size == size


def test_every_layer_of_the_paper_network_has_the_shape_in_the_table():
    with torch.device("meta"):
        modifier = Modifier()
        x = torch.empty(1, 3, 256, 256)
        shapes = []
        for layer in (*modifier.encoder, modifier.residual_blocks, *modifier.decoder):
            x = layer(x)
            shapes.append(tuple(x.shape[1:]))
    for wanted in [(64, 256, 256), (128, 128, 128), (256, 64, 64)]:
        assert wanted in shapes
    assert shapes[-1] == (3, 256, 256)
    kinds = [type(layer) for layer in (*modifier.encoder, *modifier.decoder)]
    assert kinds.count(nn.ConvTranspose2d) == 2
    assert len(modifier.residual_blocks) == 9


@pytest.mark.parametrize("upsample", ["transposed", "resize"])
@pytest.mark.rubric(
    "forward is the table, written out",
    points=4,
    hint="Mirrored borders (reflection padding, not zeros) around the 7 x 7 convs and in the "
    "blocks; stride-2 convs and both upsamplers use zero padding 1 (transposed: output_padding 1; "
    "resize: nearest, not bilinear). Norm, then ReLU; none after the last conv but tanh; no "
    "dropout; no shortcut from the input to the output.",
)
def test_forward_equals_the_network_written_out_by_hand(upsample, use_order):
    torch.manual_seed(1)
    modifier = Modifier(ModifierConfig(width=4, blocks=1, size=16, upsample=upsample)).double()
    for parameter in modifier.parameters():  # biases too, which start at 0
        nn.init.normal_(parameter, std=0.3)

    def norm(x):
        mean = x.mean(dim=(2, 3), keepdim=True)
        variance = ((x - mean) ** 2).mean(dim=(2, 3), keepdim=True)
        return (x - mean) / torch.sqrt(variance + 1e-5)

    def mirrored(x, pad, w, b):
        rows = [*range(pad, 0, -1), *range(x.shape[2]), *range(-2, -2 - pad, -1)]
        return F.conv2d(x[:, :, rows][:, :, :, rows], w, b)

    def up(x, w, b):
        if upsample == "transposed":
            # A stride-2 transposed conv is a plain conv, kernel turned, over spread-out pixels.
            spread = torch.zeros(*x.shape[:2], 2 * x.shape[2] + 2, 2 * x.shape[3] + 2).double()
            spread[:, :, 1:-1:2, 1:-1:2] = x
            return F.conv2d(spread, w.flip(2, 3).transpose(0, 1), b)
        return F.conv2d(x.repeat_interleave(2, 2).repeat_interleave(2, 3), w, b, padding=1)

    x = faces(2).double()
    with use_order() as used:
        out = modifier(x)
    weights = [p.detach() for p in used.parameters]
    h = norm(mirrored(x, 3, *weights[0:2])).relu()
    h = norm(F.conv2d(h, *weights[2:4], stride=2, padding=1)).relu()
    h = norm(F.conv2d(h, *weights[4:6], stride=2, padding=1)).relu()
    inner = norm(mirrored(h, 1, *weights[6:8])).relu()
    h = h + norm(mirrored(inner, 1, *weights[8:10]))
    h = norm(up(h, *weights[10:12])).relu()
    h = norm(up(h, *weights[12:14])).relu()
    wanted = torch.tanh(mirrored(h, 3, *weights[14:16]))
    torch.testing.assert_close(out, wanted, rtol=1e-9, atol=1e-9)


def plain_and_matched(**settings):
    """A modifier without and one with `match_color`: the same weights, large enough to matter."""
    torch.manual_seed(1)
    plain = Modifier(ModifierConfig(width=4, blocks=1, size=16, **settings)).double()
    for parameter in plain.parameters():
        nn.init.normal_(parameter, std=0.3)
    config = ModifierConfig(width=4, blocks=1, size=16, match_color=True, **settings)
    matched = Modifier(config).double()
    matched.load_state_dict(plain.state_dict())  # it has no parameters of its own
    return plain, matched


@pytest.mark.parametrize("upsample", ["transposed", "resize"])
@pytest.mark.rubric(
    "output colors follow the input",
    points=2,
    hint="With match_color, tanh(atanh(0.95 mean) + 2 std p), where mean and std are those of each "
    "color of each picture alone (over height and width, keepdim), not of the batch or of all "
    "colors; std divides by n - 1.",
)
def test_match_color_by_hand(upsample):
    """tanh(atanh(0.95 mean) + 2 std p), p the plain network's output before tanh."""
    plain, matched = plain_and_matched(upsample=upsample)
    contrast = torch.tensor([0.2, 0.5, 0.9]).view(1, 3, 1, 1)
    shift = torch.tensor([-0.4, 0.0, 0.1]).view(1, 3, 1, 1)
    x = faces(2).double() * contrast + shift
    x[1] = -x[1]
    before_tanh = torch.atanh(plain(x))
    out = matched(x)
    for i in range(2):
        for c in range(3):
            mean = sum(x[i, c].flatten().tolist()) / 256
            std = math.sqrt(sum((v - mean) ** 2 for v in x[i, c].flatten().tolist()) / 255)
            wanted = torch.tanh(math.atanh(0.95 * mean) + 2 * std * before_tanh[i, c])
            # atanh near 1 costs digits.
            torch.testing.assert_close(out[i, c], wanted, rtol=0, atol=1e-6)


def test_without_match_color_nothing_is_changed():
    """False is the paper's network to the last bit: tanh of the decoder's output."""
    plain, matched = plain_and_matched()
    x = faces(3).double()
    before_tanh = plain.decoder(plain.residual_blocks(plain.encoder(x)))
    assert torch.equal(plain(x), torch.tanh(before_tanh))
    assert ModifierConfig().match_color is False
    assert not torch.equal(plain(x), matched(x))


@pytest.mark.rubric("output colors follow the input")
def test_match_color_follows_each_color_of_each_picture():
    """An untrained M's output is near 0: with match_color it has the input's mean color, and a
    darker, flatter or richer input gives a darker, flatter or richer output of the same pattern.
    """
    torch.manual_seed(0)
    untrained = Modifier(ModifierConfig(width=4, blocks=1, size=16, match_color=True))
    noise = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) - 0.5
    means = torch.tensor([[-0.6, 0.0, 0.5], [0.3, -0.2, 0.1]])  # per picture and color
    x = noise * 0.4 + means[:, :, None, None]
    wanted = 0.95 * x.mean(dim=(2, 3))
    torch.testing.assert_close(untrained(x).mean(dim=(2, 3)), wanted, rtol=0, atol=0.05)
    # Instance norm removes contrast and mean; only color matching brings them back.
    flat = untrained(noise * 0.1).std(dim=(2, 3))
    rich = untrained(noise * 0.4).std(dim=(2, 3))
    torch.testing.assert_close(rich, 4 * flat, rtol=0.1, atol=0)
    gray = untrained(torch.full((1, 3, 16, 16), 0.4))
    torch.testing.assert_close(gray, torch.full_like(gray, 0.95 * 0.4))  # no contrast in, none out
    for extreme in (-1.0, 1.0):
        assert untrained(torch.full((1, 3, 16, 16), extreme)).isfinite().all()


@pytest.mark.rubric("output colors follow the input")
def test_match_color_passes_gradient_to_every_weight():
    _, matched = plain_and_matched()
    (matched(faces(2).double()) - faces(2, seed=9)).pow(2).sum().backward()
    assert all(p.grad.isfinite().all() for p in matched.parameters())
    assert all(p.grad.abs().sum() > 0 for p in matched.parameters() if p.ndim == 4)


@pytest.mark.rubric(
    "a residual block may lower its input",
    points=2,
    hint="The input is added to what the block computes: without this shortcut it is no "
    "correction, and with weights of 0 it is not the identity. No ReLU after the sum: with one a "
    "correction could only raise the features.",
)
def test_residual_block_may_lower_its_input():
    torch.manual_seed(0)
    x = torch.zeros(1, 4, 8, 8) + torch.randn(1, 4, 8, 8) * 0.01
    block = ResidualBlock(4)
    assert (block(x) < 0).any()  # a ReLU after the sum would forbid it
    for parameter in block.parameters():
        nn.init.zeros_(parameter)
    assert torch.equal(block(x), x)  # a correction of nothing


@pytest.mark.rubric(
    "instance norm has no state",
    points=4,
    hint="A picture is normalized by its own pixels, in testing as in training: no running "
    "statistics (track_running_stats), no learned scale (affine), and no batch norm, which mixes "
    "the pictures of a batch. The variance divides by the number of pixels; 1e-5 is added to it.",
    helper="instance_norm",
)
def test_instance_norm_has_no_state_and_is_per_picture():
    assert not list(instance_norm(4).parameters()) and not list(instance_norm(4).buffers())
    modifier = small()
    x = faces(3)
    together = modifier.train()(x)
    torch.testing.assert_close(modifier.eval()(x), together, rtol=0, atol=0)
    alone = torch.cat([modifier(one[None]) for one in x])
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-5)


@pytest.mark.rubric("instance norm has no state")
def test_instance_norm_by_hand():
    x = faces(2).double() * torch.tensor([1.0, 0.01, 0.001])[:, None, None]  # 1e-5 matters
    mean = x.mean(dim=(2, 3), keepdim=True)
    variance = ((x - mean) ** 2).mean(dim=(2, 3), keepdim=True)
    torch.testing.assert_close(instance_norm(3)(x), (x - mean) / torch.sqrt(variance + 1e-5))


@pytest.mark.rubric(
    "weights start as the original's",
    points=2,
    hint="Every conv weight, transposed ones too, starts normal with standard deviation 0.02 and "
    "every bias at 0: torch's default initialization is another.",
)
def test_initialization():
    torch.manual_seed(0)
    modifier = Modifier(ModifierConfig(width=32, blocks=2, size=16))
    for name, parameter in modifier.named_parameters():
        if parameter.ndim == 1:  # a bias
            assert parameter.eq(0).all(), name
        else:
            sigmas = 5 * 0.02 / math.sqrt(2 * parameter.numel())  # 5 standard errors
            assert abs(parameter.std().item() - 0.02) < sigmas, name
            assert abs(parameter.mean().item()) < 5 * 0.02 / math.sqrt(parameter.numel()), name


def test_resize_has_no_checkerboard_from_flat_features():
    """Flat features give a flat inside under "resize", a pattern of period 2 under transposed."""
    torch.manual_seed(0)
    flat = torch.ones(1, 16, 8, 8)
    for upsample, flat_out in [("resize", True), ("transposed", False)]:
        decoder = Modifier(ModifierConfig(width=4, blocks=0, size=32, upsample=upsample)).decoder
        layers = decoder[:2] if upsample == "resize" else decoder[:1]
        inside = layers(flat)[:, :, 2:-2, 2:-2]
        assert (inside.std(dim=(2, 3)) < 1e-6).all().item() is flat_out


@pytest.mark.rubric(
    "every weight gets a gradient",
    points=1,
    hint="A weight without gradient is not in the graph: a layer that is built but not called, a "
    "detach, or no_grad.",
)
def test_every_parameter_but_the_biases_before_a_norm_gets_gradient():
    modifier = small()
    x = faces(2).requires_grad_()
    # Against a fixed random picture, so that no symmetry cancels the gradient.
    (modifier(x) - faces(2, seed=9)).pow(2).sum().backward()
    for name, parameter in modifier.named_parameters():
        if parameter.ndim == 4:
            assert parameter.grad.abs().sum() > 0, name
    assert x.grad.abs().sum() > 0


@pytest.mark.rubric(
    "empty batches pass, wrong shapes and settings are refused",
    points=2,
    hint="A batch of no faces comes back as it is, before any norm sees it. Raise ValueError "
    "naming the field for faces that are not (B, 3, S, S) and for settings no network can have: "
    "size a multiple of 4, at least 8.",
)
def test_an_empty_batch_passes():
    assert small()(torch.zeros(0, 3, 16, 16)).shape == (0, 3, 16, 16)


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 1, 16, 16), (1, 3, 16, 20), (1, 3, 32, 32)])
@pytest.mark.rubric("empty batches pass, wrong shapes and settings are refused")
def test_wrong_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="faces.*16.*16"):
        small()(torch.zeros(shape))


@pytest.mark.parametrize(
    "field, value",
    [("width", 0), ("blocks", -1), ("size", 30), ("size", 4), ("upsample", "bicubic")],
)
@pytest.mark.rubric("empty batches pass, wrong shapes and settings are refused")
def test_wrong_settings_are_refused(field, value):
    with pytest.raises(ValueError, match=field):
        ModifierConfig(**{field: value})
