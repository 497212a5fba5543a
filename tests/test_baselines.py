"""baselines against closed forms, numpy loops and pictures whose answer is known by hand."""

import numpy as np
import pytest
import torch

from ppad import baselines, crop_sampler
from ppad.baselines import BASELINES, Blur, Edge, Masked, Noise, SuperPixel, identity, make_baseline

PAPER_ORDER = [
    "Un-anonymized", "Blur(8x8)", "Blur(16x16)", "Blur(24x24)",
    "Noise(0.1)", "Noise(0.3)", "Noise(0.5)", "Masked", "Edge", "Super-Pixel",
]  # fmt: skip


def rand(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def smooth(batch=3, size=64, seed=0):
    """Blobby pictures with outlines, more like faces than white noise is."""
    return torch.nn.functional.interpolate(
        rand(batch, 3, 6, 6, seed=seed), (size, size), mode="bicubic"
    ).clamp(-1, 1)


# ---- what all share ----


@pytest.mark.rubric(
    "the public names are there, in the paper's order",
    points=1,
    hint="Table 1's names and order in BASELINES, the starter's fields and defaults; Un-anonymized "
    "is the function identity itself",
)
def test_the_public_names_are_there():
    assert (Blur(8).cells, Masked().value, Noise(0.1).calls, SuperPixel().grid) == (8, -1.0, 0, 8)
    assert (Edge().sigma, Edge().low, Edge().high) == (1.0, 0.025, 0.05)
    # The trainer asks for it by name.
    assert baselines.make_baseline("Un-anonymized") is baselines.identity
    assert all(callable(make(0)) for make in baselines.BASELINES.values())


@pytest.mark.rubric("the public names are there, in the paper's order")
def test_names_are_the_papers_in_its_order():
    assert list(BASELINES) == PAPER_ORDER


@pytest.mark.parametrize("name", PAPER_ORDER)
@pytest.mark.rubric(
    "each baseline is an anonymizer",
    points=2,
    hint="same shape, type and range [-1, 1], the crops given untouched (no in-place change), no "
    "picture sees its neighbors in the batch, no crops at all are fine; clip what leaves the "
    "range",
)
def test_each_is_an_anonymizer(name):
    crops = smooth()
    before = crops.clone()
    out = make_baseline(name)(crops)
    assert out.shape == crops.shape and out.dtype == crops.dtype
    assert out.isfinite().all() and out.min() >= -1 and out.max() <= 1
    assert torch.equal(crops, before)
    if name != "Un-anonymized":
        assert not torch.equal(out, crops)


@pytest.mark.parametrize("name", [n for n in PAPER_ORDER if not n.startswith("Noise")])
@pytest.mark.rubric("each baseline is an anonymizer")
def test_a_picture_never_sees_its_neighbors_in_the_batch(name):
    crops = torch.cat([smooth(2), rand(2, 3, 64, 64)])
    together = make_baseline(name)(crops)
    for i in range(4):
        assert torch.allclose(together[i : i + 1], make_baseline(name)(crops[i : i + 1]), atol=1e-5)


@pytest.mark.parametrize("name", [n for n in PAPER_ORDER if n != "Un-anonymized"])
def test_crops_that_are_not_square_rgb_are_refused(name):
    for shape in [(1, 3, 64, 48), (1, 1, 64, 64), (3, 64, 64)]:
        with pytest.raises(ValueError, match="crops"):
            make_baseline(name)(torch.zeros(shape))


@pytest.mark.rubric("the public names are there, in the paper's order")
def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="Super-Pixel"):
        make_baseline("blur")


@pytest.mark.parametrize("seed", [20261127131500, 2**63 - 1])
def test_noise_of_a_large_seed(seed):
    """Such as a time; `ppad.reproduce --seed` takes all below 2^63."""
    crops = torch.zeros(1, 3, 16, 16)
    noise = make_baseline("Noise(0.1)", seed=seed)
    first, second = noise(crops), noise(crops)
    assert not torch.equal(first, second)
    assert torch.equal(first, make_baseline("Noise(0.1)", seed=seed)(crops))


@pytest.mark.parametrize("name", PAPER_ORDER)
@pytest.mark.rubric("each baseline is an anonymizer")
def test_no_crops_at_all_are_fine(name):
    assert make_baseline(name)(torch.zeros(0, 3, 64, 64)).shape == (0, 3, 64, 64)


@pytest.mark.rubric(
    "bad input is refused",
    points=1,
    hint="what the docstrings name raises ValueError: crops that are not square RGB, a variance of "
    "0, an unknown name",
)
def test_bad_input_is_a_ValueError():
    for call, argument in [
        *((make_baseline(name), torch.zeros(1, 3, 64, 48)) for name in PAPER_ORDER[1:]),
        (make_baseline, "blur"),
        (Noise, 0.0),
    ]:
        with pytest.raises(ValueError):
            call(argument)
            pytest.fail(
                f"{call} took {argument if call is make_baseline else 'crops it cannot take'}"
            )


# ---- identity, mask, blur, noise ----


@pytest.mark.rubric(
    "Masked and Blur leave nothing of the border",
    points=2,
    hint="the baseline leaks the border: all of the crop is changed, rim included; Masked is one "
    "value everywhere, black: -1, where 0 is a gray mask, unless its field says another",
)
def test_identity_and_mask():
    crops = rand(2, 3, 8, 8)
    assert torch.equal(identity(crops), crops)
    assert torch.equal(Masked()(crops), torch.full_like(crops, -1.0))
    assert (Masked(0.25)(crops) == 0.25).all()


@pytest.mark.parametrize("cells, size", [(8, 64), (16, 64), (24, 72)])
@pytest.mark.rubric(
    "Blur keeps the cells' means and nothing else",
    points=3,
    hint="down by area mean: picking or interpolating pixels lets finer detail alias through; then "
    "up bilinear with align_corners=False; a crop too small for its cells comes back as it is",
)
def test_blur_is_block_means_interpolated(cells, size):
    crops = rand(2, 3, size, size)
    out = Blur(cells)(crops).numpy()
    step = size // cells
    means = crops.view(2, 3, cells, step, cells, step).mean((3, 5)).numpy()  # (2, 3, cells, cells)
    for i, j in [(0, 0), (size // 2, size // 3), (size - 1, 5), (step + 1, 2 * step)]:
        y, x = ((p + 0.5) / step - 0.5 for p in (i, j))  # in units of cells, between their centers
        y, x = (min(max(p, 0), cells - 1) for p in (y, x))
        y0 = int(y)
        x0 = int(x)
        y1 = min(y0 + 1, cells - 1)
        x1 = min(x0 + 1, cells - 1)
        top = means[:, :, y0, x0] * (1 - x + x0) + means[:, :, y0, x1] * (x - x0)
        low = means[:, :, y1, x0] * (1 - x + x0) + means[:, :, y1, x1] * (x - x0)
        assert np.allclose(out[:, :, i, j], top * (1 - y + y0) + low * (y - y0), atol=1e-5)


@pytest.mark.rubric("Blur keeps the cells' means and nothing else")
def test_blur_depends_on_nothing_but_the_block_means():
    crops = rand(1, 3, 64, 64)
    # Each block mirrored in itself.
    shuffled = crops.view(1, 3, 8, 8, 8, 8).flip(3, 5).reshape(1, 3, 64, 64)
    assert torch.allclose(Blur(8)(crops), Blur(8)(shuffled), atol=1e-5)


@pytest.mark.rubric("Masked and Blur leave nothing of the border")
def test_no_border_of_the_face_is_left():
    for name in ("Masked", "Blur(8x8)"):  # a face of noise on gray: what is left of it shows
        gray = torch.zeros(1, 3, 64, 64)
        gray[..., :2] = 0.9 * rand(1, 3, 64, 2)
        gray[..., -1:] = rand(1, 3, 64, 1)
        gray[..., :1, :] = rand(1, 3, 1, 64)
        out = make_baseline(name)(gray)
        assert (out.diff(dim=-1).abs() < 0.2).all() and (out.diff(dim=-2).abs() < 0.2).all(), name


@pytest.mark.rubric("Blur keeps the cells' means and nothing else")
def test_a_face_smaller_than_blurs_cells_comes_back_as_it_is():
    for size in (1, 7, 23):
        crops = rand(2, 3, size, size)
        assert torch.equal(Blur(24)(crops), crops)
    assert Blur(24).smallest == 24  # whoever repaints asks, and counts or hides such faces
    assert not torch.equal(Blur(8)(rand(1, 3, 9, 9)), rand(1, 3, 9, 9))  # unequal cells
    assert not any(hasattr(make_baseline(n), "smallest") for n in PAPER_ORDER if "Blur" not in n)


@pytest.mark.parametrize("variance", [0.1, 0.3, 0.5])
@pytest.mark.rubric(
    "Noise has the variance that its name says",
    points=3,
    hint="variance, not standard deviation: take the root; it counts in pictures from 0 to 1, so "
    "in [-1, 1] the noise is twice as large; clip to the range. Every pixel of every channel has a "
    "draw of its own: one for all three is gray noise, one for all pictures is noise shared by the "
    "batch",
)
def test_noise_has_the_clipped_gaussians_moments(variance):
    # In 0...1 pictures mid gray is 0.5 and noise has this variance; clipping leaves tails outside
    # P(|n| > 0.5).
    out = (Noise(variance)(torch.zeros(8, 3, 64, 64)) + 1) / 2
    sigma = variance**0.5
    normal = torch.distributions.Normal(0.0, 1.0)
    tail = 1 - normal.cdf(torch.tensor(0.5 / sigma))
    assert (
        abs((out == 1).float().mean() - tail) < 0.01
        and abs((out == 0).float().mean() - tail) < 0.01
    )
    inner = out[(out > 0) & (out < 1)] - 0.5  # a normal truncated at +-0.5: variance in closed form
    cut = torch.tensor(0.5 / sigma)
    expect = variance * (1 - 2 * cut * normal.log_prob(cut).exp() / (1 - 2 * tail))
    assert abs(inner.mean()) < 0.01 and abs(inner.var() / expect - 1) < 0.05


@pytest.mark.rubric("Noise has the variance that its name says")
def test_noise_before_clipping_has_the_named_variance():
    out = (Noise(0.0004)(torch.zeros(8, 3, 64, 64)) + 1) / 2  # sigma 0.02: nothing reaches the ends
    assert abs(out.var() / 0.0004 - 1) < 0.02


@pytest.mark.rubric("Noise has the variance that its name says")
def test_noise_is_drawn_for_every_channel_of_every_picture():
    """Gray noise would leave the color, shared noise could be subtracted."""
    planes = Noise(0.01)(torch.zeros(2, 3, 64, 64)).view(6, -1)
    correlation = torch.corrcoef(planes) - torch.eye(6)
    assert correlation.abs().max() < 0.1


@pytest.mark.rubric(
    "Noise is fresh each call and repeatable",
    points=2,
    hint="fresh noise each call from an own generator seeded by (seed, calls): seeded by the calls "
    "alone, or by seed + calls, runs of two seeds share noise; count the calls; torch's global "
    "generator stays as it was",
)
def test_noise_is_fresh_each_call_reproducible_and_resumable():
    crops = torch.zeros(2, 3, 16, 16)
    noise = Noise(0.1, seed=3)
    first = noise(crops)
    second = noise(crops)
    assert not torch.equal(first, second) and not torch.equal(first[0], first[1])
    again = Noise(0.1, seed=3)
    again.load_state_dict({"calls": 1})
    assert (
        torch.equal(again(crops), second)
        and again.state_dict() == {"calls": 2} == noise.state_dict()
    )
    assert not torch.equal(make_baseline("Noise(0.1)", seed=4)(crops), first)
    assert torch.equal(make_baseline("Noise(0.1)", seed=3)(crops), first)
    for other in (2, 4):  # seed + calls would give a neighbor's noise
        neighbor = Noise(0.1, seed=other)
        draws = [neighbor(crops) for _ in range(3)]
        assert not any(torch.equal(draw, one) for draw in draws for one in (first, second))


@pytest.mark.rubric("Noise is fresh each call and repeatable")
def test_noise_leaves_torchs_global_generator_alone():
    torch.manual_seed(0)
    expect = torch.rand(3)
    torch.manual_seed(0)
    Noise(0.1)(torch.zeros(1, 3, 8, 8))
    assert torch.equal(torch.rand(3), expect)


def test_noise_without_variance_is_refused():
    with pytest.raises(ValueError, match="variance"):
        Noise(0.0)


# ---- edge ----


def step_picture(column, size=64):
    crops = torch.full((1, 3, size, size), -0.5)
    crops[..., column:] = 0.5
    return crops


@pytest.mark.parametrize("column", [20, 32, 47])
@pytest.mark.parametrize("turn", [0, 1, 2, 3])
@pytest.mark.rubric(
    "Edge draws thin, linked lines",
    points=3,
    hint="white on black, not black on white; thin: of two equal neighbors across a step one "
    "stays; across means along the gradient, whose y points down as the rows do; link weak "
    "edges to strong ones only; sigma and both thresholds count in 1/64 of the side, whatever the "
    "size of the crop",
)
def test_a_step_gives_one_thin_straight_line(column, turn):
    edges = Edge()(step_picture(column).rot90(turn, (2, 3))).rot90(-turn, (2, 3))[0, 0] > 0
    assert torch.equal(edges.sum(1), torch.ones(64, dtype=torch.long))  # one pixel in each row
    columns = edges.float().argmax(1)
    assert (columns == columns[0]).all() and columns[0] in (column - 1, column)


def test_a_diagonal_step_gives_a_line_along_it():
    i, j = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    crops = torch.where(i + j >= 64, 0.5, -0.5).expand(1, 3, 64, 64)
    edges = Edge()(crops)[0, 0] > 0
    # Only the pixels that touch the step, on either side: along 45 degrees they are not each
    # other's neighbors, so both sides stay and make a staircase.
    assert torch.equal(edges[8:-8], ((i + j - 63.5).abs() < 1)[8:-8])


@pytest.mark.parametrize("turn", [0, 1])
@pytest.mark.rubric("Edge draws thin, linked lines")
def test_a_diagonal_step_gives_a_thin_line_whichever_way_it_leans(turn):
    i, j = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    step = torch.where(i + j >= 64, 0.5, -0.5).expand(1, 3, 64, 64)
    edges = Edge()(step.rot90(turn, (2, 3))).rot90(-turn, (2, 3))[0, 0] > 0
    near = (i + j - 63.5).abs() < 2  # pixels that touch the step, and one more on either side
    assert not (edges & ~near)[8:-8].any()
    in_each_row = edges[8:-8].sum(1)
    assert in_each_row.min() >= 1 and in_each_row.max() <= 2


@pytest.mark.rubric("Edge draws thin, linked lines")
def test_flat_crops_have_no_edges_and_maps_are_black_or_white():
    assert torch.equal(Edge()(torch.full((1, 3, 32, 32), 0.3)), torch.full((1, 3, 32, 32), -1.0))
    out = Edge()(smooth())
    assert set(out.unique().tolist()) == {-1.0, 1.0}
    assert torch.equal(out[:, 0], out[:, 1]) and torch.equal(out[:, 0], out[:, 2])


def contrast_step(levels):
    """A vertical step at column 32 whose contrast in row i is levels[i] gray levels (0 to 1)."""
    crops = torch.zeros(1, 3, 64, 64)
    crops[..., 32:] = (2 * levels)[:, None]
    return crops


@pytest.mark.rubric("Edge draws thin, linked lines")
def test_linking_keeps_weak_edges_only_where_they_touch_strong_ones():
    # A step of contrast c has a slope of 0.36 c after smoothing with sigma 1 and the central
    # difference: 0.09 is about 0.032 (weak, between 0.025 and 0.05), 0.3 about 0.11 (strong).
    weak = torch.full((64,), 0.09)
    assert (Edge()(contrast_step(weak)) < 0).all()
    fading = torch.cat(
        [torch.full((8,), 0.3), torch.linspace(0.3, 0.09, 24), torch.full((32,), 0.09)]
    )
    line = Edge()(contrast_step(fading))[0, 0, :, 31:33] > 0
    # Linked down to the last row, 32 weak rows away.
    assert torch.equal(line.sum(1), torch.ones(64, dtype=torch.long))
    # Linked or not, what is below the low threshold stays out.
    vanishing = torch.cat(
        [torch.full((8,), 0.3), torch.linspace(0.3, 0.04, 24), torch.full((32,), 0.04)]
    )
    line = Edge()(contrast_step(vanishing))[0, 0, :, 31:33] > 0
    assert line[:20].any(1).all() and not line[34:].any()


@pytest.mark.rubric("Edge draws thin, linked lines")
def test_edges_do_not_depend_on_the_crops_size():
    # A soft step, its width fixed relative to the face: in pixels its slope halves from 64 to 128,
    # the answer must not.
    for level in (0.2, 0.4):
        for size in (64, 128):
            x = (torch.arange(size) + 0.5) / size
            soft = torch.sigmoid((x - 0.5) * 60) * level * 2
            assert (Edge()(soft.expand(1, 3, size, size)) > 0).any() == (level == 0.4)


# ---- super-pixel ----


@pytest.mark.rubric(
    "Super-Pixel paints SLIC's clusters in their mean color",
    points=3,
    hint="distance is Lab color plus (compactness / step) place, step a cell's side and not the "
    "crop's; compactness is a field, 40 unless told, and so is iterations; only the nine clusters "
    "around a pixel's cell count, then each pixel takes the mean RGB of its own cluster in its own "
    "picture",
)
def test_each_pixel_is_the_mean_of_its_super_pixel():
    crops = smooth()
    sp = SuperPixel()
    label = sp.segment(crops).numpy()
    out = sp(crops).numpy()
    assert label.shape == (3, 64, 64) and label.min() >= 0 and label.max() < 64
    for b in range(3):
        for k in np.unique(label[b]):
            member = label[b] == k
            assert np.allclose(
                out[b][:, member], crops[b].numpy()[:, member].mean(1, keepdims=True), atol=1e-5
            )


def slic_loop(lab, grid, compactness, iterations):
    """SLIC by plain loops over clusters, in float64, on a Lab picture (3, S, S)."""
    size = lab.shape[-1]
    step = size // grid
    i, j = np.mgrid[:size, :size] + 0.5
    home = [(y, x) for y in range(grid) for x in range(grid)]
    centers = []
    for y, x in home:
        rows, cols = (slice(c * step, (c + 1) * step) for c in (y, x))
        centers.append([*lab[:, rows, cols].mean((1, 2)), (y + 0.5) * step, (x + 0.5) * step])
    for round_ in range(iterations + 1):
        best = np.full((size, size), np.inf)
        label = np.zeros((size, size), int)
        for k, (y, x) in enumerate(home):
            rows = slice(max(y - 1, 0) * step, (y + 2) * step)
            cols = slice(max(x - 1, 0) * step, (x + 2) * step)
            L, a, b, ci, cj = centers[k]
            color = (lab[0] - L) ** 2 + (lab[1] - a) ** 2 + (lab[2] - b) ** 2
            d = (color + (compactness / step) ** 2 * ((i - ci) ** 2 + (j - cj) ** 2))[rows, cols]
            closer = d < best[rows, cols]
            best[rows, cols][closer] = d[closer]
            label[rows, cols][closer] = k
        if round_ < iterations:
            for k in range(grid * grid):
                m = label == k
                if m.any():
                    centers[k] = [*lab[:, m].mean(1), i[m].mean(), j[m].mean()]
    return label


def lab_of(crop):
    """sRGB (3, S, S) in [-1, 1] to Lab by the textbook, in numpy."""
    s = (crop.double().numpy() + 1) / 2
    linear = np.where(s > 0.04045, ((s + 0.055) / 1.055) ** 2.4, s / 12.92)
    matrix = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    x, y, z = np.tensordot(matrix, linear, 1) / np.array([0.9505, 1.0, 1.089])[:, None, None]
    f = [np.where(t > 216 / 24389, np.cbrt(t), (24389 / 27 * t + 16) / 116) for t in (x, y, z)]
    return np.stack([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.rubric("Super-Pixel paints SLIC's clusters in their mean color")
def test_super_pixels_follow_lab_color_and_place():
    crop = (smooth(1, 64, seed=5) + 0.1 * rand(1, 3, 64, 64, seed=6)).clamp(-1, 1)
    got = SuperPixel(8, 10.0, 5).segment(crop)[0].numpy()
    assert (
        got == slic_loop(lab_of(crop[0]), 8, 10.0, 5)
    ).mean() > 0.9  # wherever the clusters started
    cell = np.arange(64) // 8
    # A neighbor of its own cell.
    assert abs(got // 8 - cell[:, None]).max() <= 1 and abs(got % 8 - cell).max() <= 1


@pytest.mark.parametrize(
    "words", [{}, {"compactness": 160.0}, {"grid": 4, "compactness": 20.0}, {"iterations": 1}]
)
@pytest.mark.rubric("Super-Pixel paints SLIC's clusters in their mean color")
def test_super_pixels_weigh_place_by_compactness_over_step(words):
    crop = (smooth(1, 64, seed=5) + 0.1 * rand(1, 3, 64, 64, seed=6)).clamp(-1, 1)
    got = SuperPixel(**words).segment(crop)[0].numpy()
    wanted = {"grid": 8, "compactness": 40.0, "iterations": 5} | words
    expect = slic_loop(lab_of(crop[0]), **wanted)
    assert (got == expect).mean() > 0.99  # all but ties within rounding


@pytest.mark.parametrize("size", [32, 40])
def test_segments_match_slic_by_plain_loops(size):
    crop = smooth(1, size, seed=5) + 0.1 * rand(1, 3, size, size, seed=6)
    crop = crop.clamp(-1, 1)
    got = SuperPixel(4, 10.0, 5).segment(crop)[0].numpy()
    expect = slic_loop(lab_of(crop[0]), 4, 10.0, 5)
    assert (got == expect).mean() > 0.99  # all but ties within rounding


def test_a_cluster_without_pixels_stays_where_it_was():
    # Noise in cells of 2 x 2 pixels: some clusters lose all their pixels and may win some back
    # later, from where they were.
    crops = rand(6, 3, 8, 8, seed=1)
    got = SuperPixel(4, 1.0, 5).segment(crops).numpy()
    expect = np.stack([slic_loop(lab_of(crop), 4, 1.0, 5) for crop in crops])
    assert min(len(np.unique(one)) for one in expect) < 16  # there are such clusters
    assert (got == expect).mean() > 0.99


def test_many_pictures_are_segmented_as_one_by_one():
    # More cells than one pass takes.
    crops = torch.stack([smooth(1, 64, seed=seed)[0] for seed in range(11)])
    one_by_one = torch.cat([SuperPixel().segment(crops[i : i + 1]) for i in range(11)])
    assert (SuperPixel().segment(crops) == one_by_one).float().mean() > 0.999


@pytest.mark.rubric("Super-Pixel paints SLIC's clusters in their mean color")
def test_flat_crops_stay_flat_and_keep_the_grid():
    flat = torch.full((1, 3, 64, 64), 0.37)
    assert torch.allclose(SuperPixel()(flat), flat, atol=1e-6)
    cell = torch.arange(64) // 8
    assert torch.equal(SuperPixel().segment(flat)[0], cell[:, None] * 8 + cell)


@pytest.mark.rubric("Super-Pixel paints SLIC's clusters in their mean color")
def test_a_two_tone_outline_is_kept_where_blur_loses_it():
    i, j = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    inside = (i - 31) ** 2 + (j - 33) ** 2 < 20**2  # a disc; no cell border follows it
    crops = torch.where(inside, 0.8, -0.6).expand(1, 3, 64, 64)
    assert (SuperPixel()(crops) - crops).abs().max() < 1e-5
    assert (Blur(8)(crops) - crops).abs().max() > 0.5


@pytest.mark.parametrize("size", [1, 2, 5, 8, 17, 53, 60, 300])
@pytest.mark.rubric("Super-Pixel paints SLIC's clusters in their mean color")
def test_super_pixel_takes_any_size_with_at_most_8_cells_a_side(size):
    cells = min(8, size)
    label = SuperPixel().segment(torch.full((1, 3, size, size), 0.2))[0]  # flat: the cells
    axis = ((torch.arange(size) + 0.5) * cells / size).floor().long()
    away = torch.stack([label // cells - axis[:, None], label % cells - axis]).abs()
    assert away.max() <= 1 and (away == 0).float().mean() > 0.8  # all but a cell's last pixels
    assert torch.equal(label.unique(), torch.arange(cells**2))
    crops = smooth(2, size)
    out = SuperPixel()(crops)
    label = SuperPixel().segment(crops)
    for crop, painted, of_pixel in zip(crops, out, label):
        for k in of_pixel.unique():
            member = of_pixel == k
            mean = crop[:, member].mean(1, keepdim=True)
            assert torch.allclose(painted[:, member], mean.expand(-1, int(member.sum())), atol=1e-5)


# ---- in the frame ----


def in_the_frame(name, side, frame=None):
    """Flat gray or a given frame, (square, what `name` makes of it there) with one face."""
    where = crop_sampler.face_squares(torch.tensor([[9.4, 7.7, 9.4 + side / 1.6, 9.7]]))
    size = side + 40
    frame = torch.zeros(1, 3, size, size) if frame is None else frame
    return where, crop_sampler.repaint(frame, [where], make_baseline(name))


def test_masked_is_black_to_the_last_pixel_of_the_box():
    for side in (16, 64, 300):
        frame = rand(1, 3, side + 40, side + 40)
        where, painted = in_the_frame("Masked", side, frame)
        x0, y0, x1, y1 = where[0].tolist()
        center = torch.arange(side + 40) + 0.5
        inside = ((center >= y0) & (center < y1))[:, None] & (center >= x0) & (center < x1)
        assert (painted[:, :, inside] == -1).all() and inside.sum() > 0.2 * side**2
        assert torch.equal(painted[:, :, ~inside], frame[:, :, ~inside])


@pytest.mark.parametrize("side", [16, 64, 300])
@pytest.mark.parametrize("variance", [0.1, 0.3, 0.5])
def test_noise_has_its_variance_in_the_frame(variance, side):
    """What A sees: before clipping it is the row's, after clipping that of a large flat patch."""
    count = -(-100_000 // (3 * (side // 2) ** 2))
    noise = Noise(variance * 1e-4, seed=1)  # a hundredth as strong: nothing reaches the ends
    square = crop_sampler.face_squares(torch.tensor([[3.4, 2.7, 3.4 + side / 1.6, 3.7]]))
    frames = torch.zeros(count, 3, side + 9, side + 9)
    weak = crop_sampler.repaint(frames, [square] * count, noise)
    weak = weak[weak != 0] / 2  # in units of [0, 1]
    assert len(weak) >= 100_000 and abs(weak.var() / (variance * 1e-4) - 1) < 0.03
    out = crop_sampler.repaint(frames, [square] * count, Noise(variance, seed=1))
    patch = Noise(variance, seed=2)(torch.zeros(1, 3, 512, 512))
    assert abs(out[out != 0].var() / patch.var() - 1) < 0.03
    assert not torch.equal(out[0], out[1])  # no two faces share their noise


def test_edges_lines_are_one_pixel_of_the_frame_wide():
    for side in (16, 64, 300):
        frame = torch.full((1, 3, side + 40, side + 40), -0.5)
        frame[..., side // 2 :] = 0.5  # a step through the face
        where, painted = in_the_frame("Edge", side, frame)
        rows = (where[0, [1, 3]] - 0.5).ceil().clamp(min=0).int().tolist()
        columns = (where[0, [0, 2]] - 0.5).ceil().clamp(min=0).int().tolist()
        drawn = painted[0, 0, slice(*rows), slice(*columns)]
        assert set(drawn.unique().tolist()) == {-1.0, 1.0}
        assert torch.equal((drawn > 0).sum(1), torch.ones(len(drawn), dtype=torch.long)), side


@pytest.mark.parametrize("name", ["Edge", "Super-Pixel", "Blur(8x8)"])
def test_repeats_to_the_last_bit(name):
    crops = rand(4, 3, 64, 64)
    assert torch.equal(make_baseline(name)(crops), make_baseline(name)(crops))
