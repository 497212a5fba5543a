"""Checks of lesson 00, and `attempt`, by which every check calls what a student wrote."""

import numpy as np
import torch
from lesson import Wrong, expect, expect_close, well_done


def attempt(function, *arguments):
    """function(*arguments); whatever goes wrong inside becomes a Wrong that says where it happened."""
    name = getattr(function, "__name__", "your function")
    try:
        return function(*arguments)
    except Exception as error:
        given = ", ".join(
            str(tuple(one.shape)) if hasattr(one, "shape") else repr(one) for one in arguments
        )
        raise Wrong(
            f"{name} stopped with {type(error).__name__}: {error}. It was called with {given}."
        ) from None


# ------------------------------------------------------------------ answers that the exercise cells start from


def to_network(image):
    """(H, W, 3) uint8 RGB -> (3, H, W) float32 in [-1, 1]."""
    return torch.as_tensor(image).permute(2, 0, 1).float() / 127.5 - 1  # (3, H, W)


def beats(a, b):
    """Is a = (mAP, error) at least as good as b in both numbers and better in one?"""
    return a[0] >= b[0] and a[1] >= b[1] and tuple(a) != tuple(b)


# ------------------------------------------------------------------ checks


def check_to_network(to_network):
    image = np.zeros((2, 4, 3), np.uint8)
    image[0, 0], image[1, 3] = (255, 0, 51), (102, 204, 255)
    wanted = -torch.ones(3, 2, 4)
    wanted[:, 0, 0] = torch.tensor([1.0, -1.0, -0.6])
    wanted[:, 1, 3] = torch.tensor([-0.2, 0.6, 1.0])
    got = attempt(to_network, image)
    expect(got is not None, "to_network(image) is None: does your function return its result?")
    expect(
        torch.is_tensor(got), f"to_network(image) is a {type(got).__name__}: give a torch tensor."
    )
    shape = tuple(got.shape)
    expect(
        shape != (2, 4, 3),
        "The result has shape (2, 4, 3), expected (3, 2, 4): the channels must come first.",
    )
    expect(
        shape != (3, 4, 2),
        "The result has shape (3, 4, 2), expected (3, 2, 4): height and width have changed places. "
        "permute(2, 0, 1) keeps their order; .T turns it round.",
    )
    expect(got.is_floating_point(), f"The result is {got.dtype}: make it float before you divide.")
    if shape == (3, 2, 4):
        expect(
            got.max() <= 1.5, f"The largest value is {got.max():g}: divide, so that 255 becomes 1."
        )
        expect(
            got.min() < -0.5,
            f"The smallest value is {got.min():g}, so your values run from 0 to 1. "
            "0 must become -1: divide by 127.5, then subtract 1.",
        )
    expect_close(
        "to_network(image)", got, wanted, "0 must become -1, 255 must become 1.", tolerance=1e-3
    )
    well_done("This is the form in which all networks of the course take pictures.")


def check_beats(beats):
    cases = [
        ((0.9, 0.3), (0.8, 0.2), True, "a is better in both numbers, so it beats b."),
        (
            (0.9, 0.2),
            (0.8, 0.3),
            False,
            "b hides people better (a high error is good here: it is the attacker who errs), "
            "so a does not beat it.",
        ),
        (
            (0.9, 0.3),
            (0.5, 0.4),
            False,
            "b hides people better, and no amount of mAP pays for that: do not add the two.",
        ),
        ((0.7, 0.4), (0.8, 0.3), False, "b has the better mAP, so a does not beat it."),
        ((0.9, 0.3), (0.9, 0.2), True, "equal in mAP and better in error is enough."),
        ((0.9, 0.3), (0.8, 0.3), True, "equal in error and better in mAP is enough."),
        (
            (0.9, 0.3),
            (0.9, 0.3),
            False,
            "nobody beats an equal: one of the two numbers must be better.",
        ),
    ]
    for a, b, wanted, why in cases:
        got = attempt(beats, a, b)
        expect(got is not None, f"beats({a}, {b}) is None: does your function return its result?")
        expect(
            isinstance(got, (bool, np.bool_)),
            f"beats({a}, {b}) is a {type(got).__name__}: return True or False.",
        )
        expect(got == wanted, f"beats({a}, {b}) is {got}, expected {wanted}: {why}")
    well_done("Fig. 4 of the paper is read with just this rule.")
