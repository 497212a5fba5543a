"""Wrong answers to the exercises of lesson 01, with words that the message must contain."""

import torch


def _grown(boxes, side):
    center = (boxes[:, :2] + boxes[:, 2:]) / 2
    return torch.cat([center - side / 2, center + side / 2], 1)


def _longer(boxes):
    return (boxes[:, 2:] - boxes[:, :2]).amax(1, keepdim=True)


# keeps the left top corner instead of the center
def enlarge_from_corner(boxes, scale=1.6):
    return torch.cat([boxes[:, :2], boxes[:, :2] + _longer(boxes) * scale], 1)


# scales the coordinates
def enlarge_coordinates(boxes, scale=1.6):
    return boxes * scale


# the whole side to each side of the center
def enlarge_twice_too_much(boxes, scale=1.6):
    return _grown(boxes, 2 * scale * _longer(boxes))


# a rectangle of the box's own proportions
def enlarge_no_square(boxes, scale=1.6):
    return _grown(boxes, scale * (boxes[:, 2:] - boxes[:, :2]))


def enlarge_shorter_side(boxes, scale=1.6):
    return _grown(boxes, scale * (boxes[:, 2:] - boxes[:, :2]).amin(1, keepdim=True))


def enlarge_clipped(boxes, scale=1.6):  # clipped to the frame
    return _grown(boxes, scale * _longer(boxes)).clamp(min=0)


def enlarge_always_the_same(boxes, scale=1.6):  # ignores its argument
    return _grown(boxes, 1.6 * _longer(boxes))


def enlarge_about_whole_pixels(boxes, scale=1.6):  # half a pixel away for odd sides
    center = (boxes[:, :2] + boxes[:, 2:]) // 2
    side = scale * _longer(boxes)
    return torch.cat([center - side / 2, center + side / 2], 1)


def mirror_without_swap(landmarks, width):  # the left eye is now on the right
    return torch.stack([width - landmarks[:, 0], landmarks[:, 1]], 1)


def mirror_pixel_numbers(landmarks, width):  # width - 1 - x is for pixel numbers
    return torch.stack([width - 1 - landmarks[:, 0], landmarks[:, 1]], 1)[[1, 0, 2, 4, 3]]


def mirror_swap_only(landmarks, width):  # swaps the rows only
    return landmarks[[1, 0, 2, 4, 3]]


def mirror_of_64(landmarks, width):  # ignores its argument
    return mirror_pixel_numbers(landmarks, 65)


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
    "check_face_squares": [
        (enlarge_from_corner, "about the box's center"),
        (enlarge_coordinates, "scaled its coordinates"),
        (enlarge_twice_too_much, "half the width"),
        (enlarge_no_square, "tall as well"),
        (enlarge_shorter_side, "shorter side"),
        (enlarge_clipped, "clipped at 0"),
        (enlarge_always_the_same, "here 1.2"),
        (enlarge_about_whole_pixels, "between whole pixels"),
    ],
    "check_mirror_landmarks": [
        (mirror_without_swap, "swap the eyes"),
        (mirror_pixel_numbers, "width - 1 - x"),
        (mirror_swap_only, "has not moved"),
        (mirror_in_place, "in place"),
        (mirror_of_64, "not always 64"),
    ],
    "check_invert": [
        (invert_shift_negated, "shift is rotated and scaled too"),
        (invert_transpose_only, "not the scale"),
        (invert_scale_only, "Transpose A"),
        (invert_three_by_three, "has shape (3, 3)"),
    ],
}
