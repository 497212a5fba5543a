"""Wrong answers to the exercises of lesson 04, with words that the message must contain."""

import torch
from torchvision.ops import box_iou
from torchvision.ops import nms as right_nms


def _iou(a, b, clamp=True, extra=0.0, twice=False):
    low = torch.maximum(a[:, None, :2], b[None, :, :2])
    high = torch.minimum(a[:, None, 2:], b[None, :, 2:])
    sides = high - low + extra
    inside = (sides.clamp(min=0) if clamp else sides).prod(2)
    areas = (a[:, 2:] - a[:, :2] + extra).prod(1)[:, None] + (b[:, 2:] - b[:, :2] + extra).prod(1)[
        None
    ]
    return inside / (areas if twice else areas - inside)


def iou_not_clamped(a, b):  # two negative sides make a positive area
    return _iou(a, b, clamp=False)


def iou_counts_twice(a, b):  # union = sum of both areas
    return _iou(a, b, twice=True)


def iou_plus_one(a, b):  # whole-pixel boxes, (x2 - x1 + 1)
    return _iou(a, b, extra=1.0)


def iou_elementwise(a, b):  # first with first, second with second
    return box_iou(a, b).diagonal()


def nms_chain(boxes, scores, threshold):  # removed boxes remove others
    order = scores.argsort(descending=True)
    iou = box_iou(boxes[order], boxes[order]).triu(1)
    return order[(iou <= threshold).all(0)]


def nms_unsorted(boxes, scores, threshold):  # the kept boxes in the order of the input
    return right_nms(boxes, scores, threshold).sort().values


def nms_mask(boxes, scores, threshold):  # a mask instead of indices
    return torch.zeros(len(boxes), dtype=torch.bool).index_fill(
        0, right_nms(boxes, scores, threshold), True
    )


def nms_input_order(boxes, scores, threshold):  # goes through the boxes as they come, not by score
    return right_nms(boxes, -torch.arange(len(boxes)).float(), threshold)


def match_twice(iou, threshold=0.5):  # a truth may be matched several times
    return (iou >= threshold).any(1)


def match_not_among_free(iou, threshold=0.5):  # looks at the best truth only, taken or not
    hits = torch.zeros(len(iou), dtype=torch.bool)
    taken = set()
    for row in range(len(iou) if iou.shape[1] else 0):
        best = int(iou[row].argmax())
        hits[row] = bool(iou[row, best] >= threshold) and best not in taken
        if hits[row]:
            taken.add(best)
    return hits


def match_miss_takes(iou, threshold=0.5):  # a miss takes its truth away
    iou, hits = iou.clone(), torch.zeros(len(iou), dtype=torch.bool)
    for row in range(len(iou) if iou.shape[1] else 0):
        best = int(iou[row].argmax())
        hits[row] = iou[row, best] >= threshold
        iou[:, best] = -1
    return hits


def match_no_truth(iou, threshold=0.5):  # fails for a frame without a truth
    iou, hits = iou.clone(), torch.zeros(len(iou), dtype=torch.bool)
    for row in range(len(iou)):
        best = int(iou[row].argmax())
        hits[row] = iou[row, best] >= threshold
        if hits[row]:
            iou[:, best] = -1
    return hits


def _precision(hits):
    return hits.double().cumsum(0) / torch.arange(1, len(hits) + 1)


def ap_no_envelope(hits, positives):  # the raw precision, without its envelope
    return float((_precision(hits) * hits).sum() / positives)


def ap_of_found(hits, positives):  # recall among the found, truths never found forgotten
    envelope = _precision(hits).flip(0).cummax(0).values.flip(0)
    return float((envelope * hits).sum() / max(int(hits.sum()), 1))


def ap_precision(hits, positives):  # precision of the whole list
    return float(hits.double().mean())


def ap_stops_when_empty(hits, positives):  # no detection: an error instead of 0
    envelope = torch.stack([_precision(hits)[i:].max() for i in range(len(hits))])
    return float((envelope * hits).sum() / positives)


def nms_list(boxes, scores, iou_threshold):  # the right boxes, in a list
    return right_nms(boxes, scores, iou_threshold).tolist()


def match_list(iou, threshold):  # the right answers, in a list
    free = iou.clone()
    right = []
    for row in range(len(iou) if iou.shape[1] else 0):
        overlap, truth = free[row].max(dim=0)
        right.append(bool(overlap >= threshold))
        if right[-1]:
            free[:, truth] = -1
    return right or [False] * len(iou)


WRONG = {
    "check_iou": [
        (iou_not_clamped, "clamp"),
        (iou_counts_twice, "overlap twice"),
        (iou_plus_one, "+ 1"),
        (iou_elementwise, "shape (2,), expected (2, 3)"),
    ],
    "check_nms": [
        (nms_chain, "removed box must remove no other"),
        (nms_unsorted, "sort them by descending score"),
        (nms_mask, "mask"),
        (nms_input_order, "highest score"),
        (nms_list, "expected a Tensor"),
    ],
    "check_match": [
        (match_twice, "matched twice"),
        (match_not_among_free, "still free"),
        (match_miss_takes, "must not take its truth"),
        (match_no_truth, "(3, 0)"),
        (match_list, "expected a Tensor"),
    ],
    "check_average_precision": [
        (ap_no_envelope, "envelope is missing"),
        (ap_of_found, "divide by positives"),
        (ap_precision, "not an area"),
        (ap_stops_when_empty, "stopped with"),
    ],
}
