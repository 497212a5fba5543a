"""The rules of the game (Algorithm 1): who moves in which update, and where gradients go. Whole rows: test_trainer_rows.py."""
import copy
import math

import pytest
import torch
from torch import nn

from ppad import config as presets
from ppad import losses, trainer
from ppad.attacks import aligned_crops
from ppad.baselines import make_baseline

PEOPLE, CLASSES = 6, 10


def make_game(config, row="Ours", seed=0):
    torch.manual_seed(seed)
    anonymizer = trainer.make_modifier(config) if row == "Ours" else make_baseline(row, seed=0)
    return trainer.Game(config, trainer.make_recognizer(config, PEOPLE), trainer.make_detector(config, CLASSES), anonymizer)


def snapshot(game):
    """Every weight and buffer of the three players, by player."""
    players = {"D": game.recognizer} | ({"A": game.detector} if game.detector is not None else {})
    if isinstance(game.anonymizer, nn.Module):
        players["M"] = game.anonymizer
    return {name: {key: value.clone() for key, value in player.state_dict().items()} for name, player in players.items()}


def moved(before, after):
    """Player -> names of the tensors that changed; players that stood still are left out."""
    changed = {name: {key for key in before[name] if not torch.equal(before[name][key], after[name][key])} for name in before}
    return {name: keys for name, keys in changed.items() if keys}


@pytest.fixture
def config(tiny):
    return tiny()


@pytest.fixture
def faces(tiny_faces):
    return tiny_faces.batch(torch.tensor([0, 5, 10, 15]))             # pictures, landmarks, identities


@pytest.fixture
def frames(tiny_actions):
    return tiny_actions.batch(torch.tensor([0, 4]))                   # frames, targets, face boxes


def faceless(frames):
    return frames[0], frames[1], [torch.zeros(0, 4)] * len(frames[0])


def update_both(game, faces, frames):
    return game.update_modifier_and_detector(faces[0], game.anonymize(faces[0]), *faces[1:], *frames)


# ------------------------------------------------------------------ each update moves its own player only

def test_update_recognizer_moves_only_D(config, faces):
    game = make_game(config)
    before = snapshot(game)
    game.update_recognizer(faces[0], game.anonymize(faces[0]), *faces[1:])
    changed = moved(before, snapshot(game))
    assert set(changed) == {"D"}
    assert any(key.startswith("network.") for key in changed["D"]) and any(key.startswith("head.") for key in changed["D"])
    assert "margin.step" in changed["D"] and int(game.recognizer.margin.step) == 1
    assert {name for name, optimizer in game.optimizers.items() if optimizer.state} == {"recognizer"}


def test_update_modifier_and_detector_moves_only_M_and_A(config, faces, frames):
    game = make_game(config)
    before = snapshot(game)
    update_both(game, faces, frames)
    changed = moved(before, snapshot(game))
    assert set(changed) == {"M", "A"}
    assert any("running_mean" in key for key in changed["A"])         # A's own buffers do move
    assert {name for name, optimizer in game.optimizers.items() if optimizer.state} == {"modifier", "detector"}
    assert game.recognizer.training and all(p.requires_grad for p in game.recognizer.parameters())   # frozen for that step only
    assert all(p.grad is None for p in game.recognizer.parameters())


def test_finetune_detector_moves_only_A(config, frames):
    game = make_game(config)
    before = snapshot(game)
    terms = game.finetune_detector(*frames)
    assert set(moved(before, snapshot(game))) == {"A"} and set(terms) == {"L_det"}
    assert all(p.grad is None for p in game.anonymizer.parameters())


def test_copy_faces_moves_only_M(config, faces):
    game = make_game(config)
    before = snapshot(game)
    first = game.copy_faces(faces[0])["L_l1"]                         # before the step
    assert set(moved(before, snapshot(game))) == {"M"}
    assert float(first.detach()) == pytest.approx(float((game_output(config, faces[0]) - faces[0]).abs().mean()))


def test_update_modifier_moves_only_M_and_needs_no_A(config, faces):
    """M's practice: line 9 without A."""
    whole = make_game(config)
    game = trainer.Game(config, whole.recognizer, None, whole.anonymizer)
    assert set(game.optimizers) == {"recognizer", "modifier"} and "detector" not in game.parts()
    before = snapshot(game)
    game.update_modifier(faces[0], game.anonymize(faces[0]), *faces[1:])
    assert set(moved(before, snapshot(game))) == {"M"}
    assert game.recognizer.training and all(p.requires_grad and p.grad is None for p in game.recognizer.parameters())
    assert {name for name, optimizer in game.optimizers.items() if optimizer.state} == {"modifier"}


def test_update_modifier_is_line_9_where_A_has_nothing_to_say(tiny, faces, frames):
    """Without a face in the frames L_det says nothing to M: then both updates move M alike, and tell the same terms."""
    practice, line_9 = (make_game(tiny()) for _ in range(2))
    alone = practice.update_modifier(faces[0], practice.anonymize(faces[0]), *faces[1:])
    terms = update_both(line_9, faces, faceless(frames))
    assert alone == {key: terms[key] for key in ("L_adv", "L_l1")}
    assert set(moved(snapshot(practice), snapshot(line_9))) == {"A"}


def game_output(config, pictures):
    with torch.no_grad():
        return make_game(config).anonymizer(pictures)


@pytest.mark.parametrize("row", ["Masked", "Noise(0.1)", "Un-anonymized", "Super-Pixel"])
def test_a_fixed_anonymizer_leaves_only_A_and_D_to_learn(config, faces, frames, row):
    game = make_game(config, row)
    assert "modifier" not in game.optimizers
    before = snapshot(game)
    terms = update_both(game, faces, frames)
    assert set(moved(before, snapshot(game))) == {"A"} and set(terms) == {"L_det"}
    before = snapshot(game)
    game.update_recognizer(faces[0], game.anonymize(faces[0]), *faces[1:])
    assert set(moved(before, snapshot(game))) == {"D"}


# ------------------------------------------------------------------ what the updates minimise

def test_D_learns_from_modified_and_original_alike(tiny, faces):
    """The gradient D takes is that of L_D(M(f)) + L_D(f), each a mean over the faces (eq. 2)."""
    config = tiny(landmark_jitter=0.0)
    game = make_game(config)
    reference, (pictures, landmarks, identities) = copy.deepcopy(game.recognizer), faces
    modified = game.anonymize(pictures).detach()
    size = (config.recognizer_height, config.recognizer_breadth)
    terms = [reference.loss(aligned_crops(x, landmarks, size), identities) for x in (modified, pictures)]
    sum(terms).backward()
    wanted = [p.grad for p in reference.parameters()]
    length = torch.cat([g.flatten() for g in wanted]).norm()
    told = game.update_recognizer(pictures, modified, landmarks, identities)
    assert [told["D_modified"].item(), told["D_original"].item()] == pytest.approx([t.item() for t in terms], rel=1e-4)
    for mine, theirs in zip(wanted, game.recognizer.parameters()):
        torch.testing.assert_close(theirs.grad, mine * min(1.0, 10 / float(length)), rtol=1e-3, atol=1e-6)


def test_L_det_reaches_M_through_the_pasted_pixels(tiny, faces, frames):
    game = make_game(tiny(adversarial_weight=0.0, l1_weight=0.0))
    update_both(game, faces, frames)
    assert max(float(p.grad.abs().max()) for p in game.anonymizer.parameters()) > 0


def test_without_a_face_L_det_says_nothing_to_M_but_trains_A(tiny, faces, frames):
    game, seen = make_game(tiny(adversarial_weight=0.0, l1_weight=0.0)), []
    before, learn = snapshot(game), game.detector.losses
    game.detector.losses = lambda repainted, targets: seen.append(repainted) or learn(repainted, targets)
    update_both(game, faces, faceless(frames))
    assert all(p.grad is None or float(p.grad.abs().max()) == 0 for p in game.anonymizer.parameters())
    assert set(moved(before, snapshot(game))) == {"A"}
    game.finetune_detector(*faceless(frames))
    assert all(torch.equal(x, frames[0]) for x in seen) and len(seen) == 2    # A gets such frames unmodified


def test_A_learns_from_repainted_frames(config, frames):
    game, seen = make_game(config, "Masked"), []
    learn = game.detector.losses
    game.detector.losses = lambda repainted, targets: seen.append(repainted) or learn(repainted, targets)
    game.finetune_detector(*frames)
    x0, y0, x1, y1 = frames[2][0][0].ceil().int().tolist()
    assert (seen[0][0, :, y0:y1 - 1, x0:x1 - 1] < -0.999).all() and not torch.equal(seen[0], frames[0])


def test_un_anonymized_frames_are_the_frames_themselves(config, faces, frames):
    """A crop pasted back would be a slight blur: the row that shows what A can do must not carry it."""
    game, seen = make_game(config, "Un-anonymized"), []
    learn = game.detector.losses
    game.detector.losses = lambda repainted, targets: seen.append(repainted) or learn(repainted, targets)
    update_both(game, faces, frames)
    game.finetune_detector(*frames)
    assert len(seen) == 2 and all(torch.equal(x, frames[0]) for x in seen)
    pasted = trainer.repainted_frames(frames[0], frames[2], lambda crops: crops, config.face_size)    # any other callable is used
    assert not torch.equal(pasted, frames[0]) and (pasted != frames[0]).any(1).float().mean() < 0.6


def D_loss(game, faces, reduction="mean"):
    """L_D of M's pictures as M reads it, without the margin: by hand, softmax over length times cosine."""
    with torch.no_grad():
        size = (game.config.recognizer_height, game.config.recognizer_breadth)
        features = game.recognizer.network(aligned_crops(game.anonymizer(faces[0]), faces[1], size))
        cosines = nn.functional.normalize(features) @ nn.functional.normalize(game.recognizer.head.weight).T     # (B, N)
        length = game.config.recognizer_scale or features.norm(dim=1, keepdim=True)
        return nn.functional.cross_entropy(length * cosines, faces[2], reduction=reduction)


def test_M_ascends_L_D(tiny, faces, frames):
    """With nothing else at stake and the cap out of reach, a small step of M makes D's loss larger."""
    game = make_game(tiny(detection_weight=0.0, l1_weight=0.0, adversarial_cap=1e6, lr_modifier=1e-5))
    before = float(D_loss(game, faces))
    terms = update_both(game, faces, frames)
    assert terms["L_adv"].item() == pytest.approx(-before, rel=1e-5)
    assert float(D_loss(game, faces)) > before


@pytest.mark.parametrize("scale", [0.0, 16.0])
def test_M_reads_L_D_without_its_margin(tiny, faces, scale):
    """log N, the cap's unit, is what an ignorant D pays without a margin; D itself goes on learning with it."""
    game = make_game(tiny(recognizer_scale=scale, adversarial_cap=1e6, lambda_base=0.0, lambda_floor=0.0))       # all margin
    modified, wanted = game.anonymize(faces[0]).detach(), float(D_loss(game, faces))
    assert float(game.modifier_objective(modified, *faces[1:]).detach()) == pytest.approx(-wanted, rel=1e-4)
    assert float(game.update_recognizer(faces[0], modified, *faces[1:])["D_modified"].detach()) > 1.05 * wanted


def test_M_descends_L1(tiny, faces, frames):
    game = make_game(tiny(detection_weight=0.0, adversarial_weight=0.0, l1_weight=3.0, lr_modifier=1e-5))
    def distance():
        with torch.no_grad():
            return float((game.anonymizer(faces[0]) - faces[0]).abs().mean())
    before = distance()
    terms = update_both(game, faces, frames)
    assert terms["L_l1"].item() == pytest.approx(3 * before, rel=1e-5)        # lambda once, as in eq. 3
    assert distance() < before


def test_cap_is_in_units_of_log_N(tiny):
    assert make_game(tiny(adversarial_cap=1.5)).cap == pytest.approx(1.5 * math.log(PEOPLE))


def test_faces_over_the_cap_give_no_gradient(config, faces):
    game = make_game(config)
    ordered = D_loss(game, faces, "none").sort().values
    game.cap = float(ordered[1] + ordered[2]) / 2                     # two below, two above
    modified = game.anonymizer(faces[0]).detach().requires_grad_()
    game.modifier_objective(modified, *faces[1:]).backward()
    pushed = modified.grad.abs().amax(dim=(1, 2, 3)) > 0
    assert torch.equal(pushed, D_loss(game, faces, "none") < game.cap) and int(pushed.sum()) == 2


def test_M_stands_still_when_every_face_is_over_the_cap(tiny, faces, frames):
    game = make_game(tiny(detection_weight=0.0, l1_weight=0.0, adversarial_cap=1e-6))
    before = snapshot(game)
    update_both(game, faces, frames)
    assert "M" not in moved(before, snapshot(game))


def test_random_label_ablation_descends_towards_somebody_else(tiny, faces):
    game = make_game(tiny(adversarial_target="random"))
    modified = game.anonymize(faces[0]).detach()
    torch.manual_seed(5)
    value = game.modifier_objective(modified, *faces[1:])
    torch.manual_seed(5)
    targets = losses.random_label_targets(faces[2], PEOPLE)
    size = (game.config.recognizer_height, game.config.recognizer_breadth)
    assert (targets != faces[2]).all()
    torch.testing.assert_close(value, game.recognizer.loss(aligned_crops(modified, faces[1], size), targets, margin=False))
    ascent = make_game(tiny()).modifier_objective(modified, *faces[1:])
    assert value.item() > 0 > ascent.item()


def test_random_label_ablation_trains_another_M(tiny, faces, frames):
    games = [make_game(tiny(adversarial_target=target, detection_weight=0.0)) for target in ("ascent", "random")]
    for game in games:
        before = snapshot(game)
        torch.manual_seed(0)
        update_both(game, faces, frames)
        assert "M" in moved(before, snapshot(game))
    assert moved(snapshot(games[0]), snapshot(games[1])).keys() >= {"M"}


def test_learning_rates_are_the_papers_schedule(tiny):
    """Sec. 4: Adam (0.5, 0.999), 1e-3 for A and 3e-4 for M and D, a tenth after the seventh of twelve epochs."""
    paper = presets.build("paper")
    game = make_game(tiny(**{f"lr_{player}": getattr(paper, f"lr_{player}") for player in ("detector", "modifier", "recognizer")}))
    assert all(optimizer.param_groups[0]["betas"] == (0.5, 0.999) for optimizer in game.optimizers.values())
    assert all(type(optimizer) is torch.optim.Adam for optimizer in game.optimizers.values())
    for epoch in range(1, 13):
        game.set_rates(epoch, 12)
        factor = 1 if epoch <= 7 else 0.1
        rates = {name: optimizer.param_groups[0]["lr"] for name, optimizer in game.optimizers.items()}
        assert rates == pytest.approx({"detector": 1e-3 * factor, "modifier": 3e-4 * factor, "recognizer": 3e-4 * factor})
