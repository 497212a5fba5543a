"""Checks of lesson 08: pixels outside boxes in a small frame, boxes for missed frames."""

import numpy as np
from lesson import call, exercise, expect, expect_close, well_done

# ------------------------------------------------------------------ our solutions


def our_changed_outside(before, after, boxes):
    """How many pixels outside all boxes (k, 4) differ between two (H, W, 3) pictures."""
    rows, columns = np.mgrid[: before.shape[0], : before.shape[1]] + 0.5
    inside = np.zeros(before.shape[:2], bool)
    for x1, y1, x2, y2 in boxes:
        inside |= (x1 <= columns) & (columns < x2) & (y1 <= rows) & (rows < y2)
    return int(((before != after).any(axis=2) & ~inside).sum())


def our_fill_gap(last, following, missed):
    """Boxes (missed, 4) on the straight line between two detections."""
    share = np.arange(1, missed + 1)[:, None] / (missed + 1)
    return np.asarray(last) + share * (np.asarray(following) - np.asarray(last))


# ------------------------------------------------------------------ checks


def check_changed_outside(function):
    """Six changed pixels: two in the box, two far off, one right of its edge, one below it."""
    before = np.zeros((6, 8, 3), np.uint8)
    after = before.copy()
    after[0, 0] = 255  # far off
    after[4, 1, :2] = 7  # far off, but inside if x and y are swapped
    after[1, 2, 0] = after[2, 4, 2] = 9  # inside
    after[2, 5, 1] = 1  # its center is at x = 5.5
    after[3, 3, 2] = 200  # its center is at y = 3.5
    box = np.array([[2.5, 1.0, 5.0, 3.0]])
    edge = (
        "A pixel is outside when its center, index + 0.5, lies on or beyond the right or lower"
        " edge: x1 <= center < x2."
    )
    hints = {
        7: "That counts values, not pixels: a pixel that differs in three channels counts once.",
        6: "That is every pixel that changed: leave out the ones inside a box.",
        5: (
            "Boxes are x1, y1, x2, y2: x goes with columns, which are the second axis of the"
            " picture."
        ),
        3: edge,
        2: edge,
    }
    got = call("changed_outside", function, before, after, box)
    hint = hints.get(int(got), "") if isinstance(got, (int, np.integer)) else ""
    expect_close("changed_outside of one box", got, 4, hint)
    two = np.array([[2.5, 1.0, 5.0, 3.0], [0.0, 0.0, 1.0, 1.0]])
    expect_close(
        "changed_outside of two boxes",
        call("changed_outside", function, before, after, two),
        3,
        "A pixel is inside when it lies in any of the boxes.",
    )
    expect_close(
        "changed_outside without a box",
        call("changed_outside", function, before, after, np.zeros((0, 4))),
        6,
        "Without a box every changed pixel is outside.",
    )
    expect_close(
        "changed_outside of a picture and itself",
        call("changed_outside", function, after, after, box),
        0,
    )
    well_done("No pixel outside the boxes may change: now you can check that on any output.")


def check_fill_gap(function):
    """A box that moves 40 px to the right and grows by 8 px, three frames missed between."""
    last = np.array([10.0, 20, 30, 40])
    following = np.array([50.0, 20, 78, 48])
    got = call("fill_gap", function, last, following, 3)
    expect(
        got is None or np.shape(got) == (3, 4),
        f"fill_gap gives the shape {np.shape(got)}, expected (3, 4): a box for each missed "
        "frame, and none for the two detections",
    )
    hint = ""
    if got is not None:
        first, final = (float(np.asarray(got)[i, 0]) for i in (0, -1))
        if first == 10.0 and final == 50.0:
            hint = (
                "Your first and last boxes are the detections themselves; with 3 frames missed the"
                " steps are quarters of the way."
            )
        elif first == final == 10.0:
            hint = "The last detection is repeated: the face goes on moving while it is missed."
        elif abs(final - 50.0) < 1e-6:
            hint = (
                "The last missed frame is one step before the next detection: divide by missed + 1."
            )
        elif first == 40.0:
            hint = "Backwards: the first missed frame is nearest to the last detection."
    wanted = np.array([[20, 20, 42, 42], [30, 20, 54, 44], [40, 20, 66, 46]])
    expect_close("fill_gap", got, wanted, hint)
    expect_close(
        "fill_gap of one frame",
        call("fill_gap", function, last, following, 1),
        [[30, 20, 54, 44]],
        "Halfway.",
    )
    well_done("A face that is missed for a few frames is still covered.")


# ------------------------------------------------------------------ what the check cells call

changed_outside = exercise(check_changed_outside, our_changed_outside)
fill_gap = exercise(check_fill_gap, our_fill_gap)
