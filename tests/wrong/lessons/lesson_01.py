"""Wrong answers to the exercises of lesson 01, with words that the message must contain."""

import torch


# keeps the left top corner instead of the center
def enlarge_from_corner(boxes, frame_size, scale=1.6):
    size = (boxes[:, 2:] - boxes[:, :2]) * scale
    return torch.cat([boxes[:, :2], boxes[:, :2] + size], 1)


# scales the coordinates
def enlarge_coordinates(boxes, frame_size, scale=1.6):
    return boxes * scale


# the whole width to each side of the center
def enlarge_twice_too_much(boxes, frame_size, scale=1.6):
    center = (boxes[:, :2] + boxes[:, 2:]) / 2
    size = (boxes[:, 2:] - boxes[:, :2]) * scale
    return torch.cat([center - size, center + size], 1)


def _grown(boxes, scale):
    center = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]) * scale / 2
    return torch.cat([center - half, center + half], 1)


def enlarge_unclipped(boxes, frame_size, scale=1.6):  # not clipped
    return _grown(boxes, scale)


def enlarge_height_for_width(boxes, frame_size, scale=1.6):  # bounds x by H
    high, wide = frame_size
    limit = torch.tensor([high, wide, high, wide])
    return torch.minimum(_grown(boxes, scale).clamp(min=0), limit)


def enlarge_last_pixel(boxes, frame_size, scale=1.6):  # clips to the last pixel's number
    high, wide = frame_size
    limit = torch.tensor([wide - 1, high - 1, wide - 1, high - 1])
    return torch.minimum(_grown(boxes, scale).clamp(min=0), limit)


def mirror_without_swap(landmarks, width):  # the left eye is now on the right
    return torch.stack([width - landmarks[:, 0], landmarks[:, 1]], 1)


def mirror_pixel_numbers(landmarks, width):  # width - 1 - x is for pixel numbers
    return torch.stack([width - 1 - landmarks[:, 0], landmarks[:, 1]], 1)[[1, 0, 2, 4, 3]]


def mirror_swap_only(landmarks, width):  # swaps the rows only
    return landmarks[[1, 0, 2, 4, 3]]


def mirror_in_place(landmarks, width):  # changes the caller's landmarks
    landmarks[:, 0] = width - landmarks[:, 0]
    return landmarks[[1, 0, 2, 4, 3]]


def invert_shift_negated(matrix):  # -t instead of -A^-1 t
    return torch.cat([torch.linalg.inv(matrix[:, :2]), -matrix[:, 2:]], 1)


def invert_transpose_only(matrix):  # right for a rotation, wrong for a scale
    back = matrix[:, :2].T
    return torch.cat([back, -back @ matrix[:, 2:]], 1)


def invert_scale_only(matrix):  # undoes the scale and rotates again
    back = matrix[:, :2] / torch.det(matrix[:, :2])
    return torch.cat([back, -back @ matrix[:, 2:]], 1)


def invert_three_by_three(matrix):  # returns the whole homogeneous matrix
    return torch.linalg.inv(torch.cat([matrix, torch.tensor([[0.0, 0.0, 1.0]])]))


WRONG = {
    "check_enlarge": [
        (enlarge_from_corner, "about the box's center"),
        (enlarge_coordinates, "scaled its coordinates"),
        (enlarge_twice_too_much, "half the width"),
        (enlarge_unclipped, "outside the frame"),
        (enlarge_height_for_width, "bounded by the width"),
        (enlarge_last_pixel, "ends at 90"),
    ],
    "check_mirror": [
        (mirror_without_swap, "swap the eyes"),
        (mirror_pixel_numbers, "width - 1 - x"),
        (mirror_swap_only, "has not moved"),
        (mirror_in_place, "in place"),
    ],
    "check_invert": [
        (invert_shift_negated, "shift is rotated and scaled too"),
        (invert_transpose_only, "not the scale"),
        (invert_scale_only, "Transpose A"),
        (invert_three_by_three, "has shape (3, 3)"),
    ],
}
