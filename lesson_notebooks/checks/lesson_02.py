"""Checks of lesson 02: four pieces of the hand-made anonymizers."""

import math

import torch
import torch.nn.functional as F
from lesson import call, exercise, expect, expect_close, well_done

# ------------------------------------------------------------------ our solutions


def our_shrink(crops, cells):
    """Block means: (B, 3, S, S) -> (B, 3, cells, cells), S a multiple of cells."""
    return F.avg_pool2d(crops, crops.shape[-1] // cells)  # (B, 3, cells, cells)


def our_add_noise(crops, variance, draw):
    """Add noise to crops (B, 3, S, S) in [-1, 1]; draw: standard normal numbers of that shape.

    The variance is given for pictures in [0, 1].
    """
    return (crops + 2 * math.sqrt(variance) * draw).clamp(-1, 1)  # (B, 3, S, S)


def our_paint_means(crops, labels):
    """The mean color of each segment: crops (B, 3, S, S), labels (B, S, S) -> (B, 3, S, S)."""
    member = F.one_hot(labels.flatten(1)).to(crops.dtype)  # (B, S*S, K)
    mean = crops.flatten(2) @ member / member.sum(1, keepdim=True).clamp(min=1)  # (B, 3, K)
    return (mean @ member.transpose(1, 2)).view_as(crops)  # (B, 3, S, S)


def our_link(weak, strong):
    """Canny's last step: the strong pixels (H, W) and all weak ones connected to them."""
    while True:
        grown = (F.max_pool2d(strong[None].float(), 3, 1, 1)[0] > 0) & weak | strong  # (H, W) bool
        if torch.equal(grown, strong):
            return strong
        strong = grown


# ------------------------------------------------------------------ checks


def check_shrink(shrink):
    """Two pictures of 4 x 4 pixels."""
    crops = torch.arange(96.0).view(2, 3, 4, 4) / 48 - 1
    got = call("shrink", shrink, crops.clone(), 2)
    corner = crops[:, :, ::2, ::2]  # (2, 3, 2, 2)
    wanted = corner + 2.5 / 48  # means of 0, 1, 4, 5
    if torch.is_tensor(got) and got.shape == wanted.shape:
        expect(
            not torch.allclose(got, corner),
            "You took one pixel of each block (every second one). The others are ignored"
            ": take the mean of the block.",
        )
        expect(
            not torch.allclose(got, wanted * 4),
            "You summed each block: divide by its number of pixels.",
        )
        torn = crops.reshape(2, 3, 2, 2, 2, 2)
        for axes in ((4, 5), (2, 4), (3, 4)):  # any pair but (3, 5)
            expect(
                not torch.allclose(got, torn.mean(axes)),
                "Your blocks are not squares of neighboring pixels: after reshape(B, 3, cells, s,"
                " cells, s) average over axes 3 and 5, the rows and the columns within a block.",
            )
    as_large = torch.is_tensor(got) and got.shape == crops.shape
    expect_close(
        "shrink(crops, 2)",
        got,
        wanted,
        (
            "Return the small picture; enlarging comes later."
            if as_large
            else "Each cell is the mean of its block of pixels."
        ),
    )
    expect_close(
        "shrink(crops, 1)",
        call("shrink", shrink, crops.clone(), 1),
        crops.mean((2, 3), keepdim=True),
        "With one cell only the mean color of each picture and channel is left.",
    )
    well_done("A block mean: detail finer than a cell is removed.")


def check_add_noise(add_noise):
    """Four pixels, two of which must be clipped."""
    crops = torch.tensor([0.0, 0.5, -0.9, 0.2]).view(1, 1, 2, 2).expand(1, 3, 2, 2).contiguous()
    draw = torch.tensor([0.5, -1.0, -2.0, 3.0]).view(1, 1, 2, 2).expand(1, 3, 2, 2).contiguous()
    # 2 sqrt(0.09) = 0.6
    wanted = torch.tensor([0.3, -0.1, -1.0, 1.0]).view(1, 1, 2, 2).expand(1, 3, 2, 2)
    got = call("add_noise", add_noise, crops.clone(), 0.09, draw.clone())
    if torch.is_tensor(got) and got.shape == wanted.shape:
        first = got[0, 0, 0, 0].item()
        for value, mistake in (
            (
                0.15,
                (
                    "so your noise is half as strong as it should be. The variance is meant for"
                    " pictures from 0 to 1; ours run from -1 to 1, twice as wide."
                ),
            ),
            (0.09, "so you used 2 times the variance as standard deviation: take its square root."),
            (
                0.045,
                (
                    "so you used the variance itself as standard deviation: take its root, and"
                    " double it."
                ),
            ),
            (
                0.212132,
                (
                    "so you doubled the variance. Twice as wide a range doubles the standard"
                    " deviation, that is, it takes four times the variance."
                ),
            ),
        ):
            expect(
                abs(first - value) > 1e-4,
                f"0 plus noise of variance 0.09 and a draw of 0.5 gives {first:.4g}, expected 0.3, "
                + mistake,
            )
        expect(
            got.min() >= -1 and got.max() <= 1,
            f"The result runs from {got.min():g} to {got.max():g}: an anonymizer returns "
            "values in [-1, 1], so clip.",
        )
    expect_close(
        "add_noise(crops, 0.09, draw)",
        got,
        wanted,
        "crops + 2 sqrt(variance) draw, then clip to [-1, 1].",
    )
    well_done("Scale, add, clip.")


def check_paint_means(paint_means):
    """Two pictures of four pixels; a label is absent from the first."""
    crops = torch.tensor([[0.0, 0.2, 1.0, 0.4], [-1.0, -0.6, 0.0, 0.8]]).view(
        2, 1, 2, 2
    ) * torch.tensor([1.0, 0.5, -1.0]).view(1, 3, 1, 1)  # (2, 3, 2, 2)
    labels = torch.tensor([[[0, 0], [2, 2]], [[0, 1], [1, 2]]])  # label 1 is absent from picture 0
    wanted = torch.tensor([[0.1, 0.1, 0.7, 0.7], [-1.0, -0.3, -0.3, 0.8]]).view(
        2, 1, 2, 2
    ) * torch.tensor([1.0, 0.5, -1.0]).view(1, 3, 1, 1)
    got = call("paint_means", paint_means, crops.clone(), labels.clone())
    if torch.is_tensor(got) and got.shape == wanted.shape:
        expect(
            not got.isnan().any(),
            "Some values are nan. A segment without any pixel has no mean: 0 / 0.",
        )
        expect(
            not torch.allclose(got[:, 0], got[:, 2]),
            "All three channels came out alike: take the mean of each channel, "
            "so that the segment keeps its color.",
        )
        pooled = torch.tensor([0.0, 0.2, -1.0]).mean()
        expect(
            abs(got[0, 0, 0, 0] - pooled) > 1e-4,
            "Segment 0 of the first picture was averaged with segment 0 of the second: "
            "equal numbers in two pictures are two segments.",
        )
    expect_close(
        "paint_means(crops, labels)",
        got,
        wanted,
        "Each pixel becomes the mean of the pixels of its picture with its label.",
    )
    well_done("Given the segments, this is all there is to the super-pixel baseline.")


def check_link(link):
    """A chain of weak pixels from a strong one, and two that are not connected."""
    strong = torch.zeros(5, 7, dtype=torch.bool)
    weak = torch.zeros(5, 7, dtype=torch.bool)
    strong[0, 0] = True
    # a chain that turns up at its end, and two separate pixels
    chain = ((0, 0), (0, 1), (1, 2), (2, 3), (3, 4), (3, 5), (2, 6), (1, 6))
    for y, x in (*chain, (4, 0), (4, 1)):
        weak[y, x] = True
    wanted = weak.clone()
    wanted[4, :2] = False
    got = call("link", link, weak.clone(), strong)
    if torch.is_tensor(got) and got.shape == wanted.shape:
        got = got.bool()
        reached = int(got.sum())
        expect(
            not (got & ~weak).any(),
            "Pixels which are not even weak edges are in the result: after each growth keep only "
            "those that are also in `weak`.",
        )
        expect(
            not got[4, :2].any(),
            "The weak pixels at the lower left are in the result, but no chain of neighbors leads"
            " from a strong pixel to them.",
        )
        expect(
            reached > 1,
            "Nothing was added to the strong pixels: let them grow along the weak ones.",
        )
        expect(
            reached != 2 or bool(got[1, 2]),
            "The growth stopped after one pixel, at the first diagonal step or the first "
            "round. A pixel has eight neighbors, and growing goes on until nothing is added.",
        )
        expect(
            reached == 8,
            f"Only {reached} of the chain's 8 pixels were reached: repeat until nothing is added.",
        )
    expect_close(
        "link(weak, strong)",
        got,
        wanted,
        "A weak pixel stays if a chain of weak pixels leads to a strong one.",
    )
    well_done("Two thresholds and this loop: faint lines stay where they continue clear ones.")


# ------------------------------------------------------------------ what the check cells call

shrink = exercise(check_shrink, our_shrink)
add_noise = exercise(check_add_noise, our_add_noise)
paint_means = exercise(check_paint_means, our_paint_means)
link = exercise(check_link, our_link)
