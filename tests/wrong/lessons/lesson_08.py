"""Wrong answers to the exercises of lesson 08, with words that the message must contain."""

import numpy as np


def values_for_pixels(before, after, boxes):  # counts channels
    outside = np.ones(before.shape[:2], bool)
    for x1, y1, x2, y2 in boxes:
        rows, columns = np.mgrid[: before.shape[0], : before.shape[1]] + 0.5
        outside &= ~((x1 <= columns) & (columns < x2) & (y1 <= rows) & (rows < y2))
    return int((before != after)[outside].sum())


def _outside(before, after, boxes, shift=0.5, closed=False, swapped=False):
    inside = np.zeros(before.shape[:2], bool)
    rows, columns = np.mgrid[: before.shape[0], : before.shape[1]] + shift
    for x1, y1, x2, y2 in boxes:
        if swapped:
            x1, y1, x2, y2 = y1, x1, y2, x2
        below = (columns <= x2) & (rows <= y2) if closed else (columns < x2) & (rows < y2)
        inside |= (x1 <= columns) & (y1 <= rows) & below
    return int(((before != after).any(axis=2) & ~inside).sum())


def edges_included(before, after, boxes):  # integer positions and both edges: one pixel too many
    return _outside(before, after, boxes, shift=0.0, closed=True)


def x_for_rows(before, after, boxes):  # takes x for the first axis
    return _outside(before, after, boxes, swapped=True)


def last_box_only(before, after, boxes):  # forgets all boxes but the last
    return _outside(before, after, boxes[-1:])


def everything(before, after, boxes):  # forgets the boxes
    return int((before != after).any(axis=2).sum())


def with_the_detections(last, following, missed):  # linspace with both ends inside
    return np.linspace(last, following, missed)


def held(last, following, missed):  # the last box, repeated
    return np.repeat(last[None], missed, axis=0)


def arrives_early(last, following, missed):  # i / missed
    return last + np.arange(1, missed + 1)[:, None] / missed * (following - last)


def backwards(last, following, missed):  # from the next detection to the last
    return following + np.arange(1, missed + 1)[:, None] / (missed + 1) * (last - following)


def both_ends_too(last, following, missed):  # missed + 2 boxes
    return np.linspace(last, following, missed + 2)


def not_stacked(last, following, missed):  # the right boxes, in a list
    steps = range(1, missed + 1)
    return [last + (following - last) * step / (missed + 1) for step in steps]


WRONG = {
    "check_changed_outside": [
        (values_for_pixels, "not pixels"),
        (edges_included, "right or lower edge"),
        (x_for_rows, "columns"),
        (last_box_only, "any of the boxes"),
        (everything, "leave out"),
    ],
    "check_fill_gap": [
        (with_the_detections, "quarters"),
        (held, "goes on moving"),
        (arrives_early, "missed + 1"),
        (backwards, "backwards"),
        (both_ends_too, "none for the two detections"),
        (not_stacked, "expected a ndarray"),
    ],
}
