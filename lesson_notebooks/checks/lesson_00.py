"""Checks of lesson 00: a picture for a network, comparing two anonymizers."""

import numpy as np
import torch
from lesson import call, exercise, expect, expect_close, well_done

# ------------------------------------------------------------------ our solutions


def our_to_network(image):
    """(H, W, 3) uint8 RGB -> (3, H, W) float32 in [-1, 1]."""
    return torch.as_tensor(image).permute(2, 0, 1).float() / 127.5 - 1  # (3, H, W)


def our_beats(a, b):
    """Is a = (mAP, error) at least as good as b in both numbers and better in one?"""
    return a[0] >= b[0] and a[1] >= b[1] and tuple(a) != tuple(b)


# ------------------------------------------------------------------ checks


def check_to_network(to_network):
    """A picture with two colored pixels."""
    image = np.zeros((2, 4, 3), np.uint8)
    image[0, 0] = (255, 0, 51)
    image[1, 3] = (102, 204, 255)
    wanted = -torch.ones(3, 2, 4)
    wanted[:, 0, 0] = torch.tensor([1.0, -1.0, -0.6])
    wanted[:, 1, 3] = torch.tensor([-0.2, 0.6, 1.0])
    got = call("to_network", to_network, image)
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
        "permute(2, 0, 1) keeps their order; .T reverses it.",
    )
    expect(
        got.dtype == torch.float32,
        f"The result is {got.dtype}, expected torch.float32: call float() before you divide.",
    )
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
    well_done("This is the input format of all networks in the course.")


def check_beats(beats):
    """Seven pairs of (mAP, error)."""
    cases = [
        ((0.9, 0.3), (0.8, 0.2), True, "a is better in both numbers, so it beats b."),
        (
            (0.9, 0.2),
            (0.8, 0.3),
            False,
            (
                "b hides people better (a high error is good here: it is the attacker's), "
                "so a does not beat it."
            ),
        ),
        (
            (0.9, 0.3),
            (0.5, 0.4),
            False,
            "b hides people better, and mAP does not make up for that: do not add the two.",
        ),
        ((0.7, 0.4), (0.8, 0.3), False, "b has the better mAP, so a does not beat it."),
        ((0.9, 0.3), (0.9, 0.2), True, "equal in mAP and better in error is enough."),
        ((0.9, 0.3), (0.8, 0.3), True, "equal in error and better in mAP is enough."),
        (
            (0.9, 0.3),
            (0.9, 0.3),
            False,
            "an equal is not beaten: one of the two numbers must be better.",
        ),
    ]
    for a, b, wanted, why in cases:
        got = call("beats", beats, a, b)
        expect(
            isinstance(got, (bool, np.bool_)),
            f"beats({a}, {b}) is a {type(got).__name__}: return True or False.",
        )
        expect(got == wanted, f"beats({a}, {b}) is {got}, expected {wanted}: {why}")
    well_done("Fig. 4 of the paper can be read with this rule.")


# ------------------------------------------------------------------ what the check cells call

to_network = exercise(check_to_network, our_to_network)
beats = exercise(check_beats, our_beats)
