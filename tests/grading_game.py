"""A game of 50 steps in which M, D and A must learn, whichever module a student wrote.

pytest does not collect it; `ppad.grade` runs it. It uses drawn people, the smallest networks, and
the same eight faces and two frames at every step, so that trends are easy to see. First M is held
while D and A learn; then D is held while M hides the faces. D's losses are computed here, not by
the trainer.
"""

import pytest
import torch
from torch.nn import functional as F

from ppad import crop_sampler, metrics, trainer
from ppad.baselines import make_baseline
from ppad.players import aligned_crops, make_detector, make_modifier, make_recognizer

STEPS = 25  # of each half


def loss_of_D(game, pictures, landmarks, identities):
    """Softmax cross-entropy of D's cosines, without the margin, by hand."""
    with torch.no_grad():
        features = embeddings(game, pictures, landmarks)
        cosines = F.normalize(features) @ F.normalize(game.recognizer.head.weight).T  # (B, N)
        return float(F.cross_entropy(game.config.recognizer_scale * cosines, identities))


def embeddings(game, pictures, landmarks):
    with torch.no_grad():
        return game.recognizer.network(aligned_crops(pictures, landmarks, (28, 24)))  # (B, E)


def verification(game, pictures, landmarks, identities):
    """AUC of telling same from different people, over all pairs of the pictures."""
    features = embeddings(game, pictures, landmarks)
    first, second = torch.triu_indices(len(features), len(features), 1)
    scores = metrics.cosine_scores(features[first].numpy(), features[second].numpy())
    return metrics.auc(scores, (identities[first] == identities[second]).numpy())


@pytest.mark.rubric(
    "plays a 50-step toy game that learns",
    points=5,
    hint=(
        "in the game all modules work together; the reason below says which half fails. 'held M': "
        "D or A does not learn (labels, alignment, sign of L_adv, zero_grad). 'held D': M does not "
        "hide (its gradient is cut, its sign is wrong)"
    ),
)
def test_a_short_game_learns(tiny, tiny_faces, tiny_actions):
    torch.manual_seed(0)
    config = tiny(
        modifier_width=8,
        recognizer_width=8,
        embedding=32,
        landmark_jitter=0.0,
        color_jitter=0.0,
        adversarial_cap=2.0,
        adversarial_weight=1.0,
        l1_weight=0.5,
    )
    four_people_twice = torch.tensor([0, 1, 4, 5, 8, 9, 12, 13])
    pictures, landmarks, people = tiny_faces.batch(four_people_twice)
    frames = tiny_actions.batch(torch.tensor([0, 4]))
    game = trainer.Game(
        config,
        make_recognizer(config, 4),
        make_detector(config, 10),
        make_modifier(config),
    )

    def seen():
        with torch.no_grad():
            return game.anonymize(pictures)

    # M held: D learns to name original and modified faces, A to find actions in repainted frames.
    modified = seen()
    before = [loss_of_D(game, faces, landmarks, people) for faces in (pictures, modified)]
    detection = []
    for _ in range(STEPS):
        game.update_recognizer(pictures, game.anonymize(pictures), landmarks, people)
        detection.append(float(game.finetune_detector(*frames)["L_det"].detach()))
    assert torch.equal(seen(), modified), "held M: M moved while only D and A should learn"
    after = [loss_of_D(game, faces, landmarks, people) for faces in (pictures, modified)]
    for name, first, last in zip(("original", "modified"), before, after):
        assert last < 0.5 * first, (
            f"held M: D's loss on {name} faces went from {first:.2f} to {last:.2f}, not below half"
        )
    separated = verification(game, pictures, landmarks, people)
    assert 0.75 < separated <= 1, (
        f"held M: D's AUC on the faces it learned is {separated:.2f}, it should be above 0.75"
    )

    # D held: M hides the faces, A keeps learning.
    held = [value.clone() for value in game.recognizer.state_dict().values()]
    for _ in range(STEPS):
        terms = game.update_modifier_and_detector(
            pictures, game.anonymize(pictures), landmarks, people, *frames
        )
        detection.append(float(terms["L_det"].detach()))
    assert all(torch.equal(*pair) for pair in zip(held, game.recognizer.state_dict().values())), (
        "held D: D moved in M's steps"
    )
    hidden = loss_of_D(game, seen(), landmarks, people)
    assert hidden > 1, (
        f"held D: D's loss on M's faces went from {after[1]:.2f} to {hidden:.2f}, it should rise "
        "above 1"
    )
    late = sum(detection[-10:]) / 10
    assert late < 0.5 * detection[0], (
        f"L_det went from {detection[0]:.2f} to {late:.2f}, it should fall below half"
    )
    found = game.detector.detect(crop_sampler.repaint(frames[0], frames[2], game.anonymizer))
    precision, _ = metrics.frame_map(found, frames[1], 10)
    assert precision > 0.4, (
        f"A's frame-mAP on the two frames it learned is {precision:.2f}, it should be above 0.4"
    )

    # A baseline, which learns nothing: a black box hides everybody from the same D.
    masked = trainer.Game(
        config, game.recognizer, game.detector, make_baseline("Masked")
    ).anonymize(pictures)
    assert loss_of_D(game, masked, landmarks, people) > 1, (
        "D names masked faces: does the mask cover the whole crop?"
    )
