"""Wrong answers to the exercises of lesson 05, with words that the message must contain."""

import torch
from torch.nn import functional as F


def parameters_without_biases(width, blocks):  # weights only
    return 180 * width**2 + 294 * width + blocks * 288 * width**2


def parameters_one_conv(width, blocks):  # one convolution in a residual block
    return 180 * width**2 + 304 * width + 3 + blocks * (144 * width**2 + 4 * width)


def parameters_affine(width, blocks):  # scale and shift of instance norm counted
    return (
        180 * width**2
        + 304 * width
        + 3
        + blocks * (288 * width**2 + 8 * width)
        + 2 * (10 + 8 * blocks) * width
    )


def _normalized(x, axes, correction=0):
    return (x - x.mean(axes, keepdim=True)) / (
        x.var(axes, keepdim=True, correction=correction) + 1e-5
    ).sqrt()


def norm_of_batch(x, eps=1e-5):  # batch norm
    return _normalized(x, (0, 2, 3))


def norm_of_layer(x, eps=1e-5):  # layer norm
    return _normalized(x, (1, 2, 3))


def norm_sample_deviation(x, eps=1e-5):  # n - 1 in the variance
    return (x - x.mean((2, 3), keepdim=True)) / (x.std((2, 3), keepdim=True) + 1e-12)


def norm_eps_outside(x, eps=1e-5):  # eps added to the deviation
    return (x - x.mean((2, 3), keepdim=True)) / (x.std((2, 3), keepdim=True, correction=0) + eps)


def field_without_stride(layers):  # every kernel counted in input pixels
    return 1 + sum(kernel - 1 for kernel, _ in layers)


def field_own_stride(layers):  # stride applied to the layer itself
    seen = 1
    jump = 1
    for kernel, stride in layers:
        jump *= stride
        seen += (kernel - 1) * jump
    return seen


def field_backwards(layers):  # the list read from the wrong end
    seen = 1
    for kernel, stride in layers:
        seen = (seen - 1) * stride + kernel
    return seen


def _sample(image, x, y):
    height, width = image.shape[1:]
    grid = torch.stack([2 * x / width - 1, 2 * y / height - 1], -1)[None, None]
    return F.grid_sample(image[None], grid, align_corners=False)[0, :, 0]


def bilinear_half_pixel(image, x, y):  # pixel i's center taken for i
    return _sample(image, x + 0.5, y + 0.5)


def bilinear_swapped(image, x, y):  # rows for x
    return _sample(image, y, x)


def bilinear_nearest(image, x, y):  # no mixing
    return image[:, y.long().clamp(0, image.shape[1] - 1), x.long().clamp(0, image.shape[2] - 1)]


def bilinear_border(image, x, y):  # border pixels are repeated
    height, width = image.shape[1:]
    grid = torch.stack([2 * x / width - 1, 2 * y / height - 1], -1)[None, None]
    return F.grid_sample(image[None], grid, padding_mode="border", align_corners=False)[0, :, 0]


def bilinear_numpy(image, x, y):  # leaves torch
    return _sample(image.detach(), x, y).numpy()


def paste_in_place(frame, patch, box):  # v itself is overwritten
    x1, y1, x2, y2 = box
    frame[:, y1:y2, x1:x2] = patch
    return frame


def paste_adds(frame, patch, box):  # r_v not taken away
    x1, y1, x2, y2 = box
    pasted = frame.clone()
    pasted[:, y1:y2, x1:x2] += patch
    return pasted


def paste_detached(frame, patch, box):  # M gets no gradient
    x1, y1, x2, y2 = box
    pasted = frame.clone()
    pasted[:, y1:y2, x1:x2] = patch.detach()
    return pasted


def paste_swapped(frame, patch, box):  # x for rows
    x1, y1, x2, y2 = box
    pasted = frame.clone()
    pasted[:, x1:x2, y1:y2] = patch
    return pasted


WRONG = {
    "check_parameters": [
        (parameters_without_biases, "biases"),
        (parameters_one_conv, "two convolutions"),
        (parameters_affine, "learns nothing"),
    ],
    "check_instance_norm": [
        (norm_of_batch, "batch norm"),
        (norm_of_layer, "layer norm"),
        (norm_sample_deviation, "n - 1"),
        (norm_eps_outside, "inside the root"),
    ],
    "check_receptive_field": [
        (field_without_stride, "forgot the strides"),
        (field_own_stride, "own stride"),
        (field_backwards, "wrong end"),
    ],
    "check_bilinear": [
        (bilinear_half_pixel, "half a pixel"),
        (bilinear_swapped, "swapped"),
        (bilinear_nearest, "nearest"),
        (bilinear_border, "outside counts as 0"),
        (bilinear_numpy, "cuts the gradient"),
    ],
    "check_paste": [
        (paste_in_place, "clone"),
        (paste_adds, "without taking r_v away"),
        (paste_detached, "cuts the gradient"),
        (paste_swapped, "x and y swapped"),
    ],
}
