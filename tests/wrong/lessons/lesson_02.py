"""Wrong answers to the exercises of lesson 02, with words that the message must contain."""

import torch.nn.functional as F


def shrink_every_other(crops, cells):  # picks single pixels
    step = crops.shape[-1] // cells
    return crops[:, :, ::step, ::step]


def shrink_sums(crops, cells):  # forgets to divide
    step = crops.shape[-1] // cells
    return F.avg_pool2d(crops, step) * step**2


def shrink_runs(crops, cells):  # averages the wrong axes
    step = crops.shape[-1] // cells
    return crops.reshape(*crops.shape[:2], cells, step, cells, step).mean((4, 5))


def shrink_and_enlarge(crops, cells):  # does the whole blur
    return F.interpolate(F.avg_pool2d(crops, crops.shape[-1] // cells), size=crops.shape[-2:])


def noise_on_unit_scale(crops, variance, draw):  # forgets that [-1, 1] is twice as wide
    return (crops + variance**0.5 * draw).clamp(-1, 1)


def noise_variance_as_deviation(crops, variance, draw):  # no root
    return (crops + 2 * variance * draw).clamp(-1, 1)


def noise_variance_doubled(crops, variance, draw):  # doubles the variance, not the deviation
    return (crops + (2 * variance) ** 0.5 * draw).clamp(-1, 1)


def noise_not_clipped(crops, variance, draw):  # leaves [-1, 1]
    return crops + 2 * variance**0.5 * draw


def paint_gray(crops, labels):  # one mean over all channels
    out = crops.clone()
    for picture, label, painted in zip(crops, labels, out):
        for one in label.unique():
            painted[:, label == one] = picture[:, label == one].mean()
    return out


def paint_across_pictures(crops, labels):  # label 0 of all pictures is taken for one segment
    out = crops.clone().transpose(0, 1)  # (3, B, S, S)
    for one in labels.unique():
        out[:, labels == one] = out[:, labels == one].mean(1, keepdim=True)
    return out.transpose(0, 1)


def paint_missing_labels(crops, labels):  # 0 / 0 where a label is missing
    member = F.one_hot(labels.flatten(1)).float()  # (B, S*S, K)
    mean = crops.flatten(2) @ member / member.sum(1, keepdim=True)
    return (mean @ member.transpose(1, 2)).view_as(crops)


def link_once(weak, strong):  # one round only
    return F.max_pool2d(strong[None].float(), 3, 1, 1)[0].bool() & weak


def link_four_neighbors(weak, strong):  # misses the diagonal steps
    edge = strong
    for _ in range(99):
        grown = edge.clone()
        grown[1:] |= edge[:-1]
        grown[:-1] |= edge[1:]
        grown[:, 1:] |= edge[:, :-1]
        grown[:, :-1] |= edge[:, 1:]
        edge = grown & weak
    return edge


def link_all_weak(weak, strong):  # one low threshold would have done
    return weak | strong


def link_without_weak(weak, strong):  # grows into everything
    return F.max_pool2d(strong[None].float(), 3, 1, 1)[0].bool()


def link_strong_only(weak, strong):  # no linking
    return strong & weak


def link_one_pass(weak, strong):  # row by row, so a chain is not followed up or to the left
    edge = strong.clone()
    for y, x in weak.nonzero().tolist():
        if edge[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].any():
            edge[y, x] = True
    return edge


WRONG = {
    "check_shrink": [
        (shrink_every_other, "one pixel of each block"),
        (shrink_sums, "summed"),
        (shrink_runs, "axes 3 and 5"),
        (shrink_and_enlarge, "small picture"),
    ],
    "check_add_noise": [
        (noise_on_unit_scale, "twice as wide"),
        (noise_variance_as_deviation, "square root"),
        (noise_variance_doubled, "doubled the variance"),
        (noise_not_clipped, "clip"),
    ],
    "check_paint_means": [
        (paint_gray, "each channel"),
        (paint_across_pictures, "two segments"),
        (paint_missing_labels, "nan"),
    ],
    "check_link": [
        (link_once, "until nothing is added"),
        (link_four_neighbors, "eight neighbors"),
        (link_all_weak, "no chain"),
        (link_without_weak, "not even weak"),
        (link_strong_only, "Nothing was added"),
        (link_one_pass, "Only 6 of the chain's 8 pixels"),
    ],
}
