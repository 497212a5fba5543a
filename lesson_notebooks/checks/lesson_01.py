"""Checks of lesson 01: squares around faces, mirrored landmarks, the inverse of a similarity."""

import torch
from lesson import call, exercise, expect, expect_close, well_done

from ppad.crop_sampler import face_squares as our_face_squares

# ------------------------------------------------------------------ our solutions


def our_mirror_landmarks(landmarks, width):
    """(5, 2) px in a picture `width` px wide -> (5, 2) px in its mirror image, usual order."""
    flipped = torch.stack([width - landmarks[:, 0], landmarks[:, 1]], 1)  # (5, 2)
    return flipped[[1, 0, 2, 4, 3]]  # eyes and mouth corners swapped


def our_invert(matrix):
    """The inverse (2, 3), crop -> picture, of a similarity (2, 3), picture -> crop."""
    linear = torch.linalg.inv(matrix[:, :2])  # (2, 2)
    return torch.cat([linear, -linear @ matrix[:, 2:]], 1)  # (2, 3)


# ------------------------------------------------------------------ checks


def check_face_squares(face_squares):
    """A square box, a tall one, one at the border, odd sides with another scale, and none."""
    boxes = torch.tensor([[40.0, 30.0, 60.0, 50.0], [80.0, 50.0, 90.0, 70.0]])
    got = call("face_squares", face_squares, boxes.clone(), 1.6)
    wanted = torch.tensor([[34.0, 24.0, 66.0, 56.0], [69.0, 44.0, 101.0, 76.0]])
    if torch.is_tensor(got) and got.shape == wanted.shape:
        first = got[0].tolist()
        expect(
            abs(first[0] - 40) > 1e-3,
            f"The box (40, 30, 60, 50) became {first}: its left top corner has not moved. "
            "Scale about the box's center.",
        )
        expect(
            abs(first[0] - 64) > 1e-3,
            f"The box (40, 30, 60, 50) became {first}: you scaled its coordinates, which moves "
            "it away from the frame's corner. Scale about the box's own center.",
        )
        expect(
            abs(first[0] - 18) > 1e-3,
            f"The box (40, 30, 60, 50) became {first}, which is twice too wide: from the center "
            "to a side it is only half the width.",
        )
        second = got[1].tolist()
        expect(
            abs(second[2] - second[0] - 16) + abs(second[3] - second[1] - 16) > 1e-3,
            f"The tall box (80, 50, 90, 70) became {second}: its square has the shorter side. "
            "Take the longer one, or forehead and chin stay outside.",
        )
        expect(
            abs(second[0] - 77) > 1e-3,
            f"The tall box (80, 50, 90, 70) became {second}, which is tall as well: a square has "
            "the longer side, here 20, in both directions.",
        )
    expect_close(
        "face_squares(boxes, 1.6)",
        got,
        wanted,
        "A side is 1.6 times the box's longer side, the center stays.",
    )
    border = torch.tensor([[2.0, 2.0, 22.0, 22.0]])
    got = call("face_squares", face_squares, border.clone(), 1.6)
    wanted = torch.tensor([[-4.0, -4.0, 28.0, 28.0]])
    if torch.is_tensor(got) and got.shape == wanted.shape:
        expect(
            got.min() < 0,
            "The square of a face at the border was clipped at 0: it may reach out of the frame, "
            "so that every face is framed alike. Whoever cuts it repeats the border's pixels.",
        )
    expect_close("face_squares of a face at the border", got, wanted, "Nothing is clipped.")
    odd = torch.tensor([[10.0, 20.0, 25.0, 31.0]])
    expect_close(
        "face_squares([[10, 20, 25, 31]], 1.2)",
        call("face_squares", face_squares, odd.clone(), 1.2),
        torch.tensor([[8.5, 16.5, 26.5, 34.5]]),
        "scale is an argument, here 1.2, and a center may lie between whole pixels: nothing is"
        " rounded.",
    )
    got = call("face_squares", face_squares, torch.zeros(0, 4), 1.6)
    expect_close(
        "face_squares of no boxes at all",
        got,
        torch.zeros(0, 4),
        "Frames without a face are common.",
    )
    well_done("With 1.6, this is the face region r_v of the paper.")


def check_mirror_landmarks(mirror_landmarks):
    """One face with five different landmarks, in pictures of two widths."""
    points = torch.tensor([[20.0, 25.0], [44.0, 27.0], [30.0, 36.0], [22.0, 48.0], [41.0, 50.0]])
    wanted = torch.tensor([[20.0, 27.0], [44.0, 25.0], [34.0, 36.0], [23.0, 50.0], [42.0, 48.0]])
    got = call("mirror_landmarks", mirror_landmarks, points, 64)
    if torch.is_tensor(got) and got.shape == wanted.shape:
        if torch.allclose(got[[1, 0, 2, 4, 3]].to(wanted), wanted):
            got_eye = got[0].tolist()
            expect(
                False,
                f"The first point is {got_eye}, on the right of the second. In a mirror the left"
                " eye becomes the right one: swap the eyes, and the corners of the mouth.",
            )
        shift = (got - wanted)[:, 0]
        expect(
            not torch.allclose(shift, -torch.ones(5)),
            "Every x is one pixel too small. width - 1 - x is for pixel "
            "numbers; in continuous coordinates it is width - x.",
        )
        expect(
            not torch.allclose(got[2], points[2]), "The nose has not moved: x becomes width - x."
        )
    expect_close(
        "mirror_landmarks(points, 64)",
        got,
        wanted,
        "Rows are left eye, right eye, nose, left and right mouth.",
    )
    expect_close(
        "mirror_landmarks(points, 50)",
        call("mirror_landmarks", mirror_landmarks, points, 50),
        wanted - torch.tensor([14.0, 0.0]),
        "The picture's width is an argument: it is not always 64.",
    )
    well_done("Without the swap, mirrored faces would be aligned wrongly.")


def check_invert(invert):
    """A rotation with scaling, then a rotation alone."""
    # scaled by 2, rotated by 90 degrees
    quarter = torch.tensor([[0.0, -2.0, 10.0], [2.0, 0.0, 4.0]])
    wanted = torch.tensor([[0.0, 0.5, -2.0], [-0.5, 0.0, 5.0]])
    got = call("invert", invert, quarter.clone())
    if torch.is_tensor(got) and got.shape == wanted.shape:
        if torch.allclose(got[:, :2], wanted[:, :2]):
            expect(
                not torch.allclose(got[:, 2], -quarter[:, 2]),
                "The shift is (-10, -4). The inverse first subtracts the shift, then rotates and"
                " scales, so the shift is rotated and scaled too: -A^-1 t.",
            )
        expect(
            not torch.allclose(got[:, :2], quarter[:, :2].T),
            "The left part is A transposed, which undoes the rotation but "
            "not the scale: divide by a^2 + b^2.",
        )
        expect(
            not torch.allclose(got[:, :2], quarter[:, :2]),
            "The left part has not changed: invert it.",
        )
        expect(
            not torch.allclose(got[:, :2], quarter[:, :2] / 4),
            "The left part is A / (a^2 + b^2): the scale is undone "
            "but the rotation is applied again. Transpose A.",
        )
    expect_close(
        "invert([[0, -2, 10], [2, 0, 4]])",
        got,
        wanted,
        "The inverse of a map must undo it.",
    )
    # a rotation without scaling
    other = torch.tensor([[0.6, -0.8, 3.0], [0.8, 0.6, -1.0]])
    expect_close(
        "invert([[0.6, -0.8, 3], [0.8, 0.6, -1]])",
        call("invert", invert, other.clone()),
        torch.tensor([[0.6, 0.8, -1.0], [-0.8, 0.6, 3.0]]),
        "The inverse of a map must undo it.",
    )
    well_done("Image samplers need this map: where does an output pixel come from?")


# ------------------------------------------------------------------ what the check cells call

face_squares = exercise(check_face_squares, our_face_squares)
mirror_landmarks = exercise(check_mirror_landmarks, our_mirror_landmarks)
invert = exercise(check_invert, our_invert)
