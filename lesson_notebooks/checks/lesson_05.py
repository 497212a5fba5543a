"""Checks of lesson 05: parameters of M, instance norm, receptive field, sampling, pasting."""

import torch
from lesson import Wrong, agrees, call, exercise, expect, expect_close, expect_not, well_done
from torch.nn import functional as F

# ------------------------------------------------------------------ our solutions


def our_parameters(width, blocks):
    """Parameter count of an M whose first layer has `width` channels, with `blocks` blocks."""
    return 180 * width**2 + 304 * width + 3 + blocks * (288 * width**2 + 8 * width)


def our_instance_norm(x, eps=1e-5):
    """Normalize each channel of each picture (B, C, H, W) to mean 0 and variance 1."""
    return F.instance_norm(x, eps=eps)


def our_receptive_field(layers):
    """Width in input pixels of the receptive field; layers: (kernel, stride), first layer first."""
    seen = 1
    for kernel, stride in reversed(layers):
        seen = (seen - 1) * stride + kernel
    return seen


def our_bilinear(image, x, y):
    """Colors (3, N) of image (3, H, W) at x, y (N,) in pixels; centers are at i + 0.5."""
    height, width = image.shape[1:]
    grid = torch.stack([2 * x / width - 1, 2 * y / height - 1], -1)[None, None]  # (1, 1, N, 2)
    return F.grid_sample(image[None], grid, align_corners=False)[0, :, 0]  # (3, N)


def our_paste(frame, patch, box):
    """A new frame (3, H, W) with patch (3, h, w) at box = (x1, y1, x2, y2), whole numbers."""
    x1, y1, x2, y2 = box
    pasted = frame.clone()
    pasted[:, y1:y2, x1:x2] = patch
    return pasted


# ------------------------------------------------------------------ checks


def check_parameters(parameters):
    """Counted on paper for four sizes; (64, 9) is the paper's."""
    for width, blocks, wanted in ((1, 0, 487), (1, 1, 783), (16, 3, 272_515), (64, 9, 11_378_179)):
        got = call("parameters", parameters, width, blocks)
        square = width**2
        mistakes = [
            (
                180 * square + 294 * width + blocks * 288 * square,
                "biases are missing: a convolution has one for each output channel.",
            ),
            (
                180 * square + 304 * width + 3 + blocks * (144 * square + 4 * width),
                "a residual block has two convolutions, not one.",
            ),
            (
                wanted + 2 * (10 + 8 * blocks) * width,
                "M's instance norm learns nothing: it has no scale and no shift.",
            ),
        ]
        expect_not(f"parameters({width}, {blocks})", got, wanted, mistakes)
        expect_close(
            f"parameters({width}, {blocks})",
            got,
            wanted,
            "A k x k convolution from a to b channels holds k * k * a * b weights and b biases.",
            1e-9,
        )
    well_done(
        f"The paper's M learns {parameters(64, 9):,} numbers, and nearly all of them sit in the"
        " residual blocks."
    )


def check_instance_norm(instance_norm):
    """Values computed by hand, then a random batch."""
    x = torch.tensor([[1.0, 3.0], [3.0, 1.0]]).expand(1, 1, 2, 2)
    got = call("instance_norm", instance_norm, x.clone())
    if agrees(got, (x - 2) / x.std()):
        raise Wrong(
            "instance_norm: you divide by the sample's deviation (n - 1). The variance here is the"
            " plain mean of the squares: .var(..., correction=0). [[1, 3], [3, 1]] must become"
            " [[-1, 1], [1, -1]]."
        )
    expect_close("instance_norm of [[1, 3], [3, 1]]", got, x - 2, "Mean 2, variance 1.")
    x = (
        torch.randn(3, 2, 4, 5, generator=torch.Generator().manual_seed(0))
        * torch.tensor([1.0, 5.0])[:, None, None]
        + 2
    )
    x[0] += 7
    got = call("instance_norm", instance_norm, x.clone())
    for words, axes in (
        (
            (
                "you mix the pictures of the batch (that is batch norm): each picture has its own"
                " statistics."
            ),
            (0, 2, 3),
        ),
        (
            "you mix the channels (that is layer norm): each channel has its own statistics.",
            (1, 2, 3),
        ),
    ):
        mean = x.mean(axes, keepdim=True)
        variance = x.var(axes, keepdim=True, correction=0)
        if agrees(got, (x - mean) / (variance + 1e-5).sqrt()):
            raise Wrong(f"instance_norm: {words} Average over dimensions 2 and 3 only.")
    wanted = torch.stack(
        [
            torch.stack(
                [(c - c.mean()) / ((c - c.mean()).square().mean() + 1e-5).sqrt() for c in picture]
            )
            for picture in x
        ]
    )
    expect_close("instance_norm", got, wanted, "Mean and variance over H and W, keepdim=True.")
    flat = call("instance_norm", instance_norm, torch.full((1, 1, 3, 3), 4.0))
    expect_close(
        "instance_norm of a channel of one color",
        flat,
        torch.zeros(1, 1, 3, 3),
        "Its variance is 0: eps inside the root keeps 0 / 0 away.",
    )
    faint = torch.tensor([[0.0, 2e-3]]).expand(1, 1, 1, 2)
    expect_close(
        "instance_norm of a faint channel",
        call("instance_norm", instance_norm, faint.clone()),
        torch.tensor([[[[-0.301511, 0.301511]]]]),
        "eps is added to the variance, inside the root.",
    )
    well_done(
        "Each channel of each picture by itself: no memory, no neighbors, the same in training and"
        " in testing."
    )


def check_receptive_field(receptive_field):
    """Stacks of a few layers."""
    for layers, wanted in (
        ([(3, 1)], 3),
        ([(3, 1), (3, 1)], 5),
        ([(7, 1), (3, 2), (3, 2)], 13),
        ([(3, 2), (3, 1)], 7),
        ([(3, 2)], 3),
        ([(2, 2), (3, 2), (3, 1)], 14),
    ):
        got = call("receptive_field", receptive_field, list(layers))
        plain = 1 + sum(kernel - 1 for kernel, _ in layers)
        own = 1
        jump = 1
        backwards = 1
        for kernel, stride in layers:
            jump *= stride
            own += (kernel - 1) * jump
            backwards = (backwards - 1) * stride + kernel
        if got == plain and plain != wanted:
            raise Wrong(
                f"receptive_field({layers}) is {got}, expected {wanted}: you forgot the strides."
                " After a stride of 2, neighbors in the picture of features are two pixels apart"
                " in the input."
            )
        if got == own and own != wanted:
            raise Wrong(
                f"receptive_field({layers}) is {got}, expected {wanted}: a layer's own stride"
                " counts for the layers after it, not for itself. Add (kernel - 1) * jump first,"
                " then jump *= stride."
            )
        if got == backwards and backwards != wanted:
            raise Wrong(
                f"receptive_field({layers}) is {got}, expected {wanted}: you read the list from the"
                " wrong end. If you start at the output, take reversed(layers)."
            )
        expect_close(
            f"receptive_field({layers})",
            got,
            wanted,
            "Start from 1; (kernel, stride), the first layer first.",
            1e-9,
        )
    well_done(
        "After two strides of 2, a 3 x 3 kernel of the residual blocks covers four times the width."
    )


def check_bilinear(bilinear):
    """A ramp, whose colors are known between the pixels too, then random points."""
    height = 4
    width = 6
    rows, columns = torch.meshgrid(
        torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij"
    )
    ramp = torch.stack([columns, rows, 10 * rows + columns])  # (3, 4, 6): x, y and 10 y + x
    x = torch.tensor([2.5, 3.0, 1.75, 5.25])
    y = torch.tensor([1.5, 2.0, 0.75, 3.25])
    wanted = torch.stack([x, y, 10 * y + x])  # (3, 4)
    got = call("bilinear", bilinear, ramp.clone(), x, y)
    cut = (
        "bilinear cuts the gradient: stay with tensors, and no .item(), .numpy() or .detach() on"
        " the way."
    )
    expect(torch.is_tensor(got), cut)
    if agrees(got, our_bilinear(ramp, x + 0.5, y + 0.5)):
        raise Wrong(
            "bilinear is off by half a pixel: pixel i has its center at i + 0.5, so the pixel to"
            " the left of x is number floor(x - 0.5). At x = 2.5 the red ramp is 2.5, yours is"
            f" {float(got[0, 0]):g}."
        )
    if agrees(got, our_bilinear(ramp, y, x)):
        raise Wrong(
            "bilinear has x and y swapped: an image is image[channel, row, column], and y counts"
            " rows."
        )
    nearest = ramp[:, y.long().clamp(max=3), x.long().clamp(max=5)]
    if agrees(got, nearest):
        raise Wrong(
            "bilinear takes the nearest pixel: its gradient in x would be zero. Mix the four"
            " neighbors by their distances."
        )
    expect_close(
        "bilinear",
        got,
        wanted,
        "Four neighbors, weights (1 - a)(1 - b), a (1 - b), (1 - a) b and a b.",
    )
    edge = call(
        "bilinear",
        bilinear,
        torch.ones(3, height, width),
        torch.tensor([0.0, 0.25, 3.0, -2.0, 6.0]),
        torch.tensor([2.0, 2.0, 0.0, 2.0, 4.0]),
    )
    expect_close(
        "bilinear of a white picture at its edge",
        edge,
        torch.tensor([0.5, 0.75, 0.5, 0, 0.25]).expand(3, 5),
        "What lies outside counts as 0, as in grid_sample's padding_mode='zeros': at the rim itself"
        " half of it is outside.",
    )
    image = ramp.clone().requires_grad_()
    answer = call("bilinear", bilinear, image, torch.tensor([1.75]), torch.tensor([0.75]))
    expect(torch.is_tensor(answer) and answer.requires_grad, cut)
    answer[0].sum().backward()
    share = torch.zeros(height, width)
    share[0, 1] = 0.75 * 0.75
    share[0, 2] = 0.25 * 0.75
    share[1, 1] = 0.75 * 0.25
    share[1, 2] = 0.25 * 0.25
    expect_close(
        "the gradient of one sample to the red channel",
        image.grad[0],
        share,
        "Each neighbor gets its weight.",
    )
    well_done("The gradient is distributed with the same weights as the colors.")


def check_paste(paste):
    """A frame of ones, a patch of fives; then gradients."""
    frame = torch.ones(3, 6, 8)
    patch = torch.full((3, 3, 3), 5.0)
    box = (1, 3, 4, 6)
    got = call("paste", paste, frame, patch, box)
    wanted = torch.ones(3, 6, 8)
    wanted[:, 3:6, 1:4] = 5
    swapped = torch.ones(3, 6, 8)
    added = torch.ones(3, 6, 8)
    swapped[:, 1:4, 3:6] = 5
    added[:, 3:6, 1:4] = 6
    if agrees(got, swapped):
        raise Wrong(
            "paste has x and y swapped: box is (x1, y1, x2, y2), and a frame is frame[channel, row,"
            " column] = [:, y1:y2, x1:x2]."
        )
    if agrees(got, added):
        raise Wrong(
            "paste adds M(r_v) without taking r_v away: v' = v - r_v + M(r_v). Inside the box 1"
            " must become 5, yours is 6."
        )
    expect_close(
        "paste", got, wanted, "Rows y1 to y2, columns x1 to x2; everything else keeps its value."
    )
    box = (1, 3, 5, 5)
    frame = torch.randn(3, 6, 8, requires_grad=True)
    patch = torch.randn(3, 2, 4, requires_grad=True)
    weight = torch.arange(144.0).view(3, 6, 8)
    answer = call("paste", paste, frame, patch, box)
    expect(
        torch.is_tensor(answer) and answer.requires_grad,
        "paste cuts the gradient: its result does not depend on the patch any more, so L_det can"
        " never reach M. No .data, .detach() or numpy.",
    )
    (answer * weight).sum().backward()
    expect(
        patch.grad is not None,
        "paste cuts the gradient to the patch: M(r_v) was detached or copied by .data, so L_det can"
        " never reach M.",
    )
    expect_close(
        "the gradient to the patch",
        patch.grad,
        weight[:, 3:5, 1:5],
        "The patch gets the gradient of the pixels in its box.",
    )
    outside = weight.clone()
    outside[:, 3:5, 1:5] = 0
    expect(
        frame.grad is not None,
        "paste cuts the gradient to the frame: pixels outside the box come from v.",
    )
    expect_close(
        "the gradient to the frame",
        frame.grad,
        outside,
        "Inside the box v has been replaced: no gradient there.",
    )
    well_done(
        "Inside the box the gradient goes to the patch, outside to the frame. That is all of v' = v"
        " - r_v + M(r_v)."
    )


# ------------------------------------------------------------------ what the check cells call

parameters = exercise(check_parameters, our_parameters)
instance_norm = exercise(check_instance_norm, our_instance_norm)
receptive_field = exercise(check_receptive_field, our_receptive_field)
bilinear = exercise(check_bilinear, our_bilinear)
paste = exercise(check_paste, our_paste)
