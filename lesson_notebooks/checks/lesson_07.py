"""Checks of lesson 07: strongest attacker, bootstrap, rank-1, landmark error; numbers by hand."""

import math

import torch
from lesson import call, exercise, expect, expect_close, well_done

from ppad.metrics import rank1 as our_rank1

# ------------------------------------------------------------------ our solutions


def our_strongest(errors):
    """The lowest error and its attacker: (error, attacker, kind) of errors[attacker][kind]."""
    return min(
        (error, attacker, kind)
        for attacker, kinds in errors.items()
        for kind, error in kinds.items()
    )


def our_resampled_error(wrong, people, drawn):
    """The error over pairs (P, 2) of people, each weighted by how often its people were drawn."""
    times = {person: int((drawn == person).sum()) for person in set(people.flatten().tolist())}
    weights = torch.tensor(
        [times[a] if a == b else times[a] * times[b] for a, b in people.tolist()]
    ).double()
    return float((weights * wrong).sum() / weights.sum())


def our_landmark_error(read, true):
    """Mean error of five landmarks, in eye distances: two tensors (B, 5, 2) -> (B,)."""
    eyes = (true[:, 0] - true[:, 1]).norm(dim=1)
    return (read - true).norm(dim=2).mean(dim=1) / eyes


# ------------------------------------------------------------------ checks


def check_strongest(function):
    """Three attackers by hand; the best of them needs an original picture."""
    errors = {
        "own": {"both": 0.34, "probe": 0.40},
        "retrained": {"both": 0.18, "probe": 0.21},
        "other": {"both": 0.44, "probe": 0.12},
    }
    got = call("strongest", function, errors)
    expect(
        isinstance(got, (tuple, list)) and len(got) == 3,
        f"strongest gives {got!r}: return three things, (error, attacker, kind)",
    )
    hints = {
        0.44: (
            "That is the highest error: the attacker who fails most is the weakest, not the"
            " strongest."
        ),
        0.18: (
            "That is the lowest with both pictures repainted, or of whoever is best on average; an"
            " attacker who holds one original (probe) does better."
        ),
        0.34: "That is the D that M was trained against, whatever the others do.",
    }
    hint = hints.get(round(got[0], 6), "") if isinstance(got[0], (int, float)) else ""
    expect_close("the strongest attacker's error", got[0], 0.12, hint)
    expect(
        tuple(got[1:]) == ("other", "probe"),
        f"the error is right, but it belongs to ('other', 'probe'), not to {got[1:]!r}",
    )
    got = call(
        "strongest", function, {"a": {"both": 0.2, "probe": 0.9}, "b": {"both": 0.3, "probe": 0.4}}
    )
    expect(
        tuple(got) == (0.2, "a", "both"),
        f"of a: 0.2 and 0.9, b: 0.3 and 0.4, strongest gives {got!r}, expected (0.2, 'a', 'both'): "
        "one good attack is enough, so nothing is averaged",
    )
    well_done("One successful attacker is enough.")


def check_resampled_error(function):
    """Four pairs of three people, two of whom were drawn twice: pairs count 2, 4, 2 and 1 times."""
    wrong = torch.tensor([True, False, False, False])
    people = torch.tensor([[7, 7], [7, 12], [12, 40], [40, 40]])
    got = call("resampled_error", function, wrong, people, torch.tensor([7, 12, 7, 40, 12]))
    hints = {
        4 / 11: (
            "A pair of one person counts as often as the person was drawn, not that often squared."
        ),
        1 / 4: "That is the error with every pair counted once: a person drawn twice counts twice.",
        4 / 13: "Two people drawn 2 and 1 times form a pair 2 * 1 times, not 2 + 1 times.",
        2 / 7: "That counts the first person of each pair only.",
        2.0: "Divide by the sum of the counts.",
    }
    try:
        hint = next(
            (
                text
                for value, text in hints.items()
                if math.isclose(float(got), value, abs_tol=1e-4)
            ),
            "",
        )
    except (TypeError, ValueError, RuntimeError):
        hint = ""
    expect_close("resampled_error", got, 2 / 9, hint)
    got = call("resampled_error", function, wrong, people, torch.tensor([40, 40, 12]))
    expect_close(
        "the error when person 7 is not drawn",
        got,
        0.0,
        "A pair of a person who was not drawn does not count.",
    )
    well_done("People are drawn, and their pairs are weighted.")


def check_rank1(function):
    """Two people in the gallery, one with a long feature; four probes."""
    gallery = torch.tensor([[10.0, 0.0], [0.0, 1.0]])
    gallery_ids = torch.tensor([5, 9])
    probe = torch.tensor([[0.5, 1.0], [1.0, 0.1], [0.0, 3.0], [0.2, 2.5]])
    got = call("rank1", function, gallery, gallery_ids, probe, torch.tensor([9, 5, 5, 9]))
    hint = ""
    if isinstance(got, (int, float)) or getattr(got, "ndim", None) == 0:
        hints = {
            0.25: (
                "That is the share of probes that were missed, or a nearest neighbor by distance:"
                " use the largest cosine."
            ),
            0.0: (
                "Compare identities: the nearest gallery row's id with the probe's id, not its"
                " position."
            ),
        }
        hint = hints.get(
            round(float(got), 4),
            "Compare by angle alone: neither a long feature nor a near one counts as similar.",
        )
    expect_close("rank1", got, 0.75, hint)
    well_done("The nearest by angle, and its identity compared with the truth.")


def check_landmark_error(function):
    """Two tilted faces, eyes 10 and 20 px apart, read 3 px right and 4 px down, so 5 px off."""
    true = torch.tensor([[[10.0, 10], [18, 16], [15, 16], [12, 22], [18, 22]]]).repeat(2, 1, 1)
    true[1] = 2 * true[1]
    read = true + torch.tensor([3.0, 4.0])
    read[0, 1] -= torch.tensor([3.0, 4.0])
    got = call("landmark_error", function, read, true)
    shape = tuple(getattr(got, "shape", ()))
    expect(
        got is None or shape == (2,),
        f"landmark_error gives the shape {shape}, expected (2,): one number a face; "
        "average over the five landmarks, not over the faces",
    )
    hints = {
        4.0: "That is in pixels: divide by the distance between the eyes.",
        0.56: "That is |dx| + |dy|; the distance is the square root of dx² + dy².",
        0.28: "That is the mean of |dx| and |dy|; the distance is the square root of dx² + dy².",
        0.5: "The eyes may be tilted: their distance takes both x and y.",
        0.742781: (
            "That divides by the eye distance that was read, which is wrong when the eyes are; take"
            " the true one."
        ),
    }
    hint = ""
    if got is not None:
        first = float(got[0])
        hint = next(
            (text for value, text in hints.items() if math.isclose(first, value, abs_tol=1e-4)), ""
        )
    expect_close("landmark_error", got, torch.tensor([0.4, 0.25]), hint)
    well_done("In eye distances, large and small faces count alike.")


# ------------------------------------------------------------------ what the check cells call

strongest = exercise(check_strongest, our_strongest)
resampled_error = exercise(check_resampled_error, our_resampled_error)
rank1 = exercise(check_rank1, our_rank1)
landmark_error = exercise(check_landmark_error, our_landmark_error)
