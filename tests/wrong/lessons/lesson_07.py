"""Wrong answers to the exercises of lesson 07, with words that the message must contain."""

import numpy as np
import torch


def highest(errors):  # the weakest attacker
    return max(
        (error, attacker, kind)
        for attacker, kinds in errors.items()
        for kind, error in kinds.items()
    )


def both_only(errors):  # forgets the attacker who has an original
    return min((kinds["both"], attacker, "both") for attacker, kinds in errors.items())


def own_only(errors):  # the paper's figure
    return errors["own"]["both"], "own", "both"


def best_on_average(errors):  # averages an attacker's two kinds before it compares
    attacker = min(errors, key=lambda name: sum(errors[name].values()))
    return min((error, attacker, kind) for kind, error in errors[attacker].items())


def error_alone(errors):  # without the attacker
    return min(error for kinds in errors.values() for error in kinds.values())


def _weighted(wrong, weights):
    weights = torch.tensor(weights).double()
    return float((weights * wrong).sum() / weights.sum())


def squared(wrong, people, drawn):  # counts a pair of one person w * w times
    times = drawn.tolist().count
    return _weighted(wrong, [times(a) * times(b) for a, b in people.tolist()])


def without_repeats(wrong, people, drawn):  # a person drawn twice counts once
    return float(wrong[torch.isin(people, drawn).all(dim=1)].float().mean())


def added(wrong, people, drawn):  # adds the two people's counts
    times = drawn.tolist().count
    return _weighted(wrong, [times(a) + times(b) for a, b in people.tolist()])


def first_person(wrong, people, drawn):  # looks at the first person of a pair only
    return _weighted(wrong, [drawn.tolist().count(a) for a, _ in people.tolist()])


def by_dot_product(gallery, gallery_ids, probe, probe_ids):  # a long feature wins
    return float((gallery_ids[(probe @ gallery.T).argmax(dim=1)] == probe_ids).float().mean())


def by_distance(gallery, gallery_ids, probe, probe_ids):  # Euclidean, so length counts as well
    return float(
        (gallery_ids[torch.cdist(probe, gallery).argmin(dim=1)] == probe_ids).float().mean()
    )


# compares a row's number with an identity
def position_for_name(gallery, gallery_ids, probe, probe_ids):
    unit = torch.nn.functional.normalize(gallery, dim=1)
    return float(((probe @ unit.T).argmax(dim=1) == probe_ids).float().mean())


def missed(gallery, gallery_ids, probe, probe_ids):  # 1 - rate
    unit = torch.nn.functional.normalize(gallery, dim=1)
    return float((gallery_ids[(probe @ unit.T).argmax(dim=1)] != probe_ids).float().mean())


def pixels(read, true):  # not divided by the distance of the eyes
    return (read - true).norm(dim=2).mean(dim=1)


def city_block(read, true):  # |dx| + |dy|
    return (read - true).abs().sum(dim=2).mean(dim=1) / (true[:, 0] - true[:, 1]).norm(dim=1)


def eyes_as_read(read, true):  # divides by an eye distance that may be wrong itself
    return (read - true).norm(dim=2).mean(dim=1) / (read[:, 0] - read[:, 1]).norm(dim=1)


def eyes_across(read, true):  # as if no head were tilted
    return pixels(read, true) / (true[:, 1, 0] - true[:, 0, 0])


def one_number(read, true):  # averages over faces, too
    return pixels(read, true).mean() / 10


WRONG = {
    "check_strongest": [
        (highest, "highest error"),
        (both_only, "probe"),
        (own_only, "trained against"),
        (best_on_average, "best on average"),
        (error_alone, "three things"),
    ],
    "check_resampled_error": [
        (squared, "squared"),
        (without_repeats, "drawn twice counts twice"),
        (added, "not 2 + 1"),
        (first_person, "first person"),
        (lambda wrong, people, drawn: np.zeros(3), "shape (3,)"),
    ],
    "check_rank1": [
        (by_dot_product, "long feature"),
        (by_distance, "nor a near one"),
        (position_for_name, "not its position"),
        (missed, "missed"),
    ],
    "check_landmark_error": [
        (pixels, "in pixels"),
        (city_block, "square root"),
        (eyes_as_read, "take the true one"),
        (eyes_across, "both x and y"),
        (one_number, "one number a face"),
    ],
}
