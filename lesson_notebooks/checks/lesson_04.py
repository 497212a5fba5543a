"""Checks of lesson 04: IoU, non-maximum suppression, matching, average precision."""

import torch
from lesson import Wrong, agrees, call, exercise, expect_close, expect_not, well_done
from torchvision.ops import box_iou as our_iou
from torchvision.ops import nms as our_nms

# ------------------------------------------------------------------ our solutions


def our_match(iou, threshold=0.5):
    """Which detections of one frame are right: iou (k, n), best score first -> bool (k,)."""
    iou = torch.as_tensor(iou).clone()
    hits = torch.zeros(len(iou), dtype=torch.bool)
    for row in range(len(iou) if iou.shape[1] else 0):
        overlap, truth = iou[row].max(dim=0)
        if overlap >= threshold:
            hits[row] = True
            iou[:, truth] = -1  # taken: no later detection matches it
    return hits


def our_average_precision(hits, positives):
    """Area under the precision envelope of hits (k,) bool, best score first."""
    hits = torch.as_tensor(hits).double()
    precision = hits.cumsum(0) / torch.arange(1, len(hits) + 1)
    envelope = precision.flip(0).cummax(0).values.flip(0)
    return float((envelope * hits).sum() / positives)  # recall rises by 1 / positives at each hit


# ------------------------------------------------------------------ checks


def check_iou(iou):
    """Two boxes against three; areas counted on squared paper."""
    a = torch.tensor([[0.0, 0, 4, 4], [2, 2, 6, 4]])
    b = torch.tensor([[0.0, 0, 4, 4], [2, 2, 6, 6], [10, 10, 12, 12]])
    wanted = torch.tensor([[1, 4 / 28, 0], [4 / 20, 8 / 16, 0]])
    got = call("iou", iou, a, b)
    unclamped = [[1, 4 / 28, 36 / (20 - 36)], [4 / 20, 8 / 16, 24 / (12 - 24)]]
    double = [[16 / 32, 4 / 32, 0], [4 / 24, 8 / 24, 0]]
    plus_one = [[1, 9 / 41, 0], [9 / 31, 15 / 25, 0]]
    one_box = [[1, 4 / 16, 0], [4 / 8, 8 / 8, 0]]
    mistakes = [
        (
            unclamped,
            (
                "boxes that do not touch must give 0; clamp width and height of the intersection at"
                " 0 (the product of two negative sides is positive)."
            ),
        ),
        (double, "the union counts the overlap twice: subtract the intersection once."),
        (
            plus_one,
            "a box is x2 - x1 wide. The + 1 belongs to boxes of whole pixels; ours are continuous.",
        ),
        (one_box, "you divide by one of the boxes instead of the union."),
    ]
    expect_not("iou", got, wanted, mistakes)
    if agrees(got, wanted.T):
        raise Wrong(
            "iou has shape (3, 2), expected (2, 3): rows are the boxes of a, columns those of b."
        )
    expect_close(
        "iou",
        got,
        wanted,
        "Every box of a against every box of b: a[:, None] and b[None] broadcast.",
    )
    empty = call("iou", iou, a, torch.zeros(0, 4))
    expect_close(
        "iou with no box in b", empty, torch.zeros(2, 0), "No box is a case too: shape (2, 0)."
    )
    well_done("1 means the same box, 0 means no overlap; 0.5 is the paper's threshold.")


def check_nms(nms):
    """A chain of three shifted boxes and one far away, not in order of score."""
    names = ["far away", "second", "first", "third"]
    boxes = torch.tensor([[50.0, 50, 60, 60], [4, 0, 14, 10], [0, 0, 10, 10], [8, 0, 18, 10]])
    scores = torch.tensor([0.3, 0.7, 0.9, 0.5])
    # first/second and second/third overlap by 60 / 140; first/third by 20 / 180.
    got = call("nms", nms, boxes, scores, 0.4)
    try:
        found = torch.as_tensor(got)
    except (TypeError, ValueError, RuntimeError) as error:
        raise Wrong(
            f"nms returned a {type(got).__name__}; return the indices of the kept boxes, shape"
            " (k,)."
        ) from error
    if found.dtype == torch.bool:
        raise Wrong(
            "nms returned a mask (bool); return the indices of the kept boxes, best score first:"
            " [2, 3, 0]."
        )
    if found.ndim != 1:
        raise Wrong(
            f"nms has shape {tuple(found.shape)}, expected (3,): return the indices of the kept"
            " boxes, not the boxes."
        )
    indices = found.tolist()
    if indices == [2, 0]:
        raise Wrong(
            "nms gives [2, 0], expected [2, 3, 0]: a removed box must remove no other. Box 3"
            " overlaps only box 1, and box 1 is gone already."
        )
    if sorted(indices) == [0, 2, 3] and indices != [2, 3, 0]:
        raise Wrong(
            f"nms gives {indices}, expected [2, 3, 0]: the right boxes, but sort them by"
            " descending score."
        )
    if sorted(indices) == [0, 1, 2, 3]:
        raise Wrong(
            f"nms gives {indices}, expected [2, 3, 0]: nothing was removed. Boxes 2 and 1 overlap"
            " by 0.43, above 0.4."
        )
    if 2 not in indices:
        raise Wrong(
            f"nms gives {indices}, expected [2, 3, 0]: go from the highest score to the lowest; box"
            " 2 has the highest score, so no other box may remove it."
        )
    expect_close(
        "nms",
        got,
        torch.tensor([2, 3, 0]),
        f"Boxes 0 to 3 are: {', '.join(names)}. A kept box removes those that "
        "overlap it by MORE than the threshold.",
    )
    got = call("nms", nms, boxes, scores, 0.6)
    expect_close(
        "nms with threshold 0.6",
        got,
        torch.tensor([2, 1, 3, 0]),
        "No pair overlaps by more than 0.6, so all stay, sorted.",
    )
    well_done("One box for each person: the best of each group is left.")


def check_match(match):
    """Small tables whose answer is obvious."""
    cases = [
        (
            "a second box on one person",
            [[0.8, 0.1], [0.7, 0.2], [0.3, 0.6], [0.55, 0.52]],
            [1, 0, 1, 0],
            [
                (
                    [1, 1, 1, 1],
                    (
                        "a truth is matched twice. Once taken it is gone: a second box on the same"
                        " person is a false positive."
                    ),
                ),
                (
                    [1, 0, 0, 0],
                    (
                        "a detection below the threshold must not take its truth away: row 1 is a"
                        " miss."
                    ),
                ),
            ],
        ),
        (
            "two people side by side",
            [[0.9, 0.55], [0.8, 0.6]],
            [1, 1],
            [([1, 0], "look for the best truth among those that are still free.")],
        ),
        (
            "a miss first",
            [[0.4], [0.7]],
            [0, 1],
            [
                ([0, 0], "a detection below the threshold must not take its truth away."),
                ([1, 0], "the overlap of 0.4 is below the threshold 0.5: a false positive."),
            ],
        ),
        (
            "exactly at the threshold",
            [[0.5]],
            [1],
            [([0], "an overlap of just 0.5 counts: at least the threshold, >=.")],
        ),
    ]
    for what, table, wanted, known in cases:
        got = call("match", match, torch.tensor(table), 0.5)
        for values, words in known:
            if agrees(got, values):
                raise Wrong(
                    f"match ({what}): {words} Table {table}, expected {[bool(w) for w in wanted]}."
                )
        expect_close(
            f"match of {table} ({what})",
            got,
            torch.tensor(wanted),
            "One answer a row, best score first.",
        )
    got = call("match", match, torch.zeros(3, 0), 0.5)
    expect_close(
        "match where the frame holds no truth, iou (3, 0)",
        got,
        torch.zeros(3),
        "All three are false positives.",
    )
    well_done("Each truth is found once, by the best box that overlaps it.")


def check_average_precision(average_precision):
    """The area under the envelope, added up by hand."""
    hits = torch.tensor([True, False, True, True, False])
    got = call("average_precision", average_precision, hits, 4)
    trapezoids = (1 + 1) / 8 + (1 / 2 + 2 / 3) / 8 + (2 / 3 + 3 / 4) / 8
    mistakes = [
        (
            (1 + 2 / 3 + 3 / 4) / 4,
            "the envelope is missing: take the best precision at this recall or any higher one.",
        ),
        (
            (1 + 3 / 4 + 3 / 4) / 3,
            (
                "recall counts all truths, also those never found: divide by positives, 4, not by"
                " the 3 hits."
            ),
        ),
        (
            (1 + 3 / 4 + 3 / 4) / 5,
            "recall counts the truths: divide by positives, 4, not by the 5 detections.",
        ),
        ((3 + 5 * 3 / 4) / 11, "this is the 11-point rule of VOC 2007; take the whole area."),
        (
            trapezoids,
            "these are trapezoids under the raw curve; take rectangles under the envelope.",
        ),
        (3 / 5, "this is the precision of the whole list, not an area."),
    ]
    expect_not("average_precision", got, 0.625, mistakes)
    expect_close(
        "average_precision([1, 0, 1, 1, 0], positives=4)",
        got,
        0.625,
        "Precision is 1, 1/2, 2/3, 3/4, 3/5; its envelope 1, 3/4, 3/4, 3/4, 3/5; recall rises by"
        " 1/4 at each hit.",
    )
    got = call("average_precision", average_precision, torch.tensor([False, True]), 1)
    expect_close(
        "average_precision([0, 1], positives=1)",
        got,
        0.5,
        "The only hit comes second: precision 1/2.",
    )
    got = call("average_precision", average_precision, torch.zeros(0, dtype=torch.bool), 3)
    expect_close(
        "average_precision of no detection at all, positives=3",
        got,
        0.0,
        "Nothing found is an AP of 0, not an error.",
    )
    well_done("Average precision is the area under an envelope.")


# ------------------------------------------------------------------ what the check cells call

iou = exercise(check_iou, our_iou)
nms = exercise(check_nms, our_nms)
match = exercise(check_match, our_match)
average_precision = exercise(check_average_precision, our_average_precision)
