"""The rules of the game (Algorithm 1): who moves in which update, and where gradients go.

Whole rows are in test_trainer_rows.py.
"""

import copy
import inspect
import math

import pytest
import torch
from torch import nn

from ppad import config as presets
from ppad import losses, optim, trainer
from ppad.baselines import make_baseline
from ppad.crop_sampler import repaint
from ppad.loop import Loop
from ppad.players import aligned_crops, make_detector, make_modifier, make_recognizer

PEOPLE = 6
CLASSES = 10


def make_game(config, row="Ours", seed=0):
    torch.manual_seed(seed)
    anonymizer = make_modifier(config) if row == "Ours" else make_baseline(row, seed=0)
    return trainer.Game(
        config,
        make_recognizer(config, PEOPLE),
        make_detector(config, CLASSES),
        anonymizer,
    )


def networks(game):
    """The players that are networks, by name."""
    named = {"D": game.recognizer, "A": game.detector, "M": game.anonymizer}
    return {name: player for name, player in named.items() if isinstance(player, nn.Module)}


def snapshot(game):
    """Every weight and buffer of the three players, by player."""
    return {
        name: {key: value.clone() for key, value in player.state_dict().items()}
        for name, player in networks(game).items()
    }


def optimized(game):
    """For every optimizer of the game: (player, its group of settings, the optimizer)."""
    owner = {id(p): name for name, player in networks(game).items() for p in player.parameters()}
    adams = [part for part in game.parts().values() if isinstance(part, torch.optim.Optimizer)]
    return [
        (owner[id(group["params"][0])], group, adam)
        for adam in adams
        for group in adam.param_groups
    ]


def stepped(game):
    """The players whose optimizer has taken a step."""
    return {
        player
        for player, group, adam in optimized(game)
        if any(p in adam.state for p in group["params"])
    }


def moved(before, after):
    """Player -> names of the tensors that changed; players that stood still are left out."""
    changed = {
        name: {key for key in before[name] if not torch.equal(before[name][key], after[name][key])}
        for name in before
    }
    return {name: keys for name, keys in changed.items() if keys}


@pytest.fixture
def config(tiny):
    return tiny()


def faceless(frames):
    return frames[0], frames[1], [torch.zeros(0, 4)] * len(frames[0])


def update_both(game, faces, frames):
    return game.update_modifier_and_detector(
        faces[0], game.anonymize(faces[0]), *faces[1:], *frames
    )


@pytest.mark.rubric(
    "the public names are there",
    points=1,
    hint=(
        "keep the starter's names, arguments and the names of the terms: D_modified, "
        "D_original, L_det, L_adv, L_l1"
    ),
)
def test_the_public_names_are_there(config, faces, frames):
    game = make_game(config)
    for name, words in {
        "anonymize": 1,
        "update_recognizer": 4,
        "update_modifier": 4,
        "update_modifier_and_detector": 7,
        "modifier_objective": 3,
        "finetune_detector": 3,
        "copy_faces": 1,
        "set_rates": 2,
        "parts": 0,
    }.items():
        assert len(inspect.signature(getattr(game, name)).parameters) == words, name
    for name, words in {
        "play": 5,
        "pretrain_detector": 5,
    }.items():
        assert len(inspect.signature(getattr(trainer, name)).parameters) == words, name
    assert (
        game.recognizer.head.weight.shape[0] == PEOPLE
        and game.anonymize(faces[0]).shape == faces[0].shape
    )
    terms = game.update_recognizer(faces[0], game.anonymize(faces[0]), *faces[1:]) | update_both(
        game, faces, frames
    )
    assert set(terms) == {
        "D_modified",
        "D_original",
        "L_det",
        "L_adv",
        "L_l1",
    }  # the names in every log


# ------------------------------------------------------------------ each update moves its own


@pytest.mark.rubric(
    "line 3 moves D and nothing else",
    points=3,
    hint=(
        "detach the modified faces: without a detach D's step runs into M's graph and uses "
        "it up; the margin's step must advance once an update"
    ),
)
def test_update_recognizer_moves_only_D(config, faces):
    game = make_game(config)
    before = snapshot(game)
    game.update_recognizer(faces[0], game.anonymize(faces[0]), *faces[1:])
    changed = moved(before, snapshot(game))
    assert set(changed) == {"D"}
    assert any(key.startswith("network.") for key in changed["D"]) and any(
        key.startswith("head.") for key in changed["D"]
    )
    assert "margin.step" in changed["D"] and int(game.recognizer.margin.step) == 1
    assert stepped(game) == {"D"}
    again = [game.anonymize(faces[0]) for _ in range(2)]
    game.update_recognizer(faces[0], again[0], *faces[1:])
    game.update_modifier(faces[0], again[0], *faces[1:])  # line 3 has not used up M's graph
    assert not torch.equal(game.anonymize(faces[0]), again[1])


@pytest.mark.rubric(
    "line 9 moves M and A, D is only read",
    points=3,
    hint=(
        "D's weights and D's buffers (its margin's step) stay; A looks at the repainted "
        "frames once, a second look moves A's batch-norm twice; freeze D for that step only; A "
        "comes from its pretraining in evaluation mode: train() first"
    ),
)
def test_update_modifier_and_detector_moves_only_M_and_A(config, faces, frames):
    game = make_game(config)
    before = snapshot(game)
    update_both(game, faces, frames)
    changed = moved(before, snapshot(game))
    assert set(changed) == {"M", "A"}
    assert any("running_mean" in key for key in changed["A"])  # A's own buffers do move
    assert stepped(game) == {"M", "A"}
    after = snapshot(game)
    looks = {
        int(after["A"][key] - before["A"][key])
        for key in changed["A"]
        if key.endswith("num_batches_tracked")
    }
    assert looks == {1}  # A looks once a step, at M's frames
    game.update_recognizer(faces[0], game.anonymize(faces[0]), *faces[1:])
    assert "head.weight" in moved(after, snapshot(game))["D"]  # D was frozen for that step only


@pytest.mark.rubric("line 9 moves M and A, D is only read")
def test_A_learns_in_training_mode_whatever_mode_it_came_in(config, faces, frames):
    """Pretraining leaves it in evaluation mode, in which torchvision computes no losses."""
    game = make_game(config)
    game.detector.eval()
    assert update_both(game, faces, frames)["L_det"] > 0 and game.detector.training


def test_D_is_handed_back_as_it_was(config, faces, frames):
    game = make_game(config)
    for update in (
        lambda: update_both(game, faces, frames),
        lambda: game.update_modifier(faces[0], game.anonymize(faces[0]), *faces[1:]),
    ):
        update()
        assert game.recognizer.training and all(
            p.requires_grad and p.grad is None for p in game.recognizer.parameters()
        )
    assert "detector" not in trainer.Game(config, game.recognizer, None, game.anonymizer).parts()


@pytest.mark.rubric(
    "line 11 moves A alone, on repainted frames",
    points=2,
    hint=(
        "M moved by finetune? M and D are frozen there; A must see repainted frames, not the "
        "originals; A may come in evaluation mode: train() first"
    ),
)
def test_finetune_detector_moves_only_A(config, frames):
    game = make_game(config)
    game.detector.eval()  # as pretraining leaves it
    before = snapshot(game)
    terms = game.finetune_detector(*frames)
    assert set(moved(before, snapshot(game))) == {"A"} == stepped(game) and set(terms) == {"L_det"}


@pytest.mark.rubric(
    "a row takes its steps in order",
    points=1,
    hint=(
        "first M copies faces, then T1 times recognizer_updates of line 3 and one of line 9, "
        "then T2 times line 11; A is pretrained on the original frames; the order of the data "
        "depends on the loop's seed, not on global chance, and a resumed row goes on where its "
        "data stopped: recognizer_updates batches of faces a step; frames flipped here would "
        "leave their boxes behind; where a batch is taken in parts (`accumulate`), each part's "
        "loss is divided by their number; update_on_kept draws from all that is kept, and not from "
        "the present batch"
    ),
)
def test_copy_faces_moves_only_M(config, faces):
    game = make_game(config)
    before = snapshot(game)
    first = game.copy_faces(faces[0])["L_l1"]  # before the step
    assert set(moved(before, snapshot(game))) == {"M"}
    assert float(first.detach()) == pytest.approx(
        float((game_output(config, faces[0]) - faces[0]).abs().mean())
    )


@pytest.mark.rubric("line 9 moves M and A, D is only read")
def test_update_modifier_moves_only_M_and_needs_no_A(config, faces):
    """M's warm-up: line 9 without A."""
    whole = make_game(config)
    game = trainer.Game(config, whole.recognizer, None, whole.anonymizer)
    before = snapshot(game)
    game.update_modifier(faces[0], game.anonymize(faces[0]), *faces[1:])
    assert set(moved(before, snapshot(game))) == {"M"} == stepped(game)


def test_update_modifier_is_line_9_without_a_face_in_the_frames(tiny, faces, frames):
    """Without a face in the frames L_det does not depend on M: both updates then move M alike."""
    warmup, line_9 = (make_game(tiny()) for _ in range(2))
    alone = warmup.update_modifier(faces[0], warmup.anonymize(faces[0]), *faces[1:])
    terms = update_both(line_9, faces, faceless(frames))
    assert alone == {key: terms[key] for key in ("L_adv", "L_l1")}
    assert set(moved(snapshot(warmup), snapshot(line_9))) == {"A"}


def game_output(config, pictures):
    with torch.no_grad():
        return make_game(config).anonymizer(pictures)


@pytest.mark.parametrize("row", ["Masked", "Noise(0.1)", "Un-anonymized", "Super-Pixel"])
@pytest.mark.rubric("line 9 moves M and A, D is only read")
def test_a_fixed_anonymizer_leaves_only_A_and_D_to_learn(config, faces, frames, row):
    game = make_game(config, row)
    before = snapshot(game)
    terms = update_both(game, faces, frames)
    assert set(moved(before, snapshot(game))) == {"A"} == stepped(game) and set(terms) == {"L_det"}
    before = snapshot(game)
    game.update_recognizer(faces[0], game.anonymize(faces[0]), *faces[1:])
    assert set(moved(before, snapshot(game))) == {"D"}


# ------------------------------------------------------------------ what the updates minimize


@pytest.mark.rubric(
    "D learns from modified and original faces alike",
    points=2,
    hint=(
        "D lowers both of its losses: its loss is -L_adv, watch the sign; both kinds of face "
        "count, aligned once, not aligned twice; clear old gradients with zero_grad. D's landmark "
        "jitter is drawn once an update, the same for f' and f; `play` hands D f' = M(f) beside f, "
        "and not f twice"
    ),
)
def test_D_steps_against_the_gradient_of_both_losses(tiny, faces):
    """Eq. 2, each term a mean over the faces.

    Adam's first step is its rate against the gradient's sign, however long the gradient is.
    """
    config = tiny(landmark_jitter=0.0)
    game = make_game(config)
    reference = copy.deepcopy(game.recognizer)
    (pictures, landmarks, identities) = faces
    modified = game.anonymize(pictures).detach()
    size = (config.recognizer_height, config.recognizer_breadth)
    terms = [
        reference.loss(aligned_crops(x, landmarks, size), identities) for x in (modified, pictures)
    ]
    sum(terms).backward()
    shown = game.update_recognizer(pictures, modified, landmarks, identities)
    assert [shown["D_modified"].item(), shown["D_original"].item()] == pytest.approx(
        [t.item() for t in terms], rel=1e-3
    )
    gradient = torch.cat([p.grad.flatten() for p in reference.parameters()])
    step = torch.cat(
        [
            (new - old).detach().flatten()
            for new, old in zip(game.recognizer.parameters(), reference.parameters())
        ]
    )
    clear = gradient.abs() > 1e-4
    assert clear.float().mean() > 0.5 and (step * gradient < 0)[clear].float().mean() > 0.99


@pytest.mark.rubric("D learns from modified and original faces alike")
def test_landmarks_are_jittered_once_for_both_kinds_of_face(tiny, faces):
    game = make_game(tiny(landmark_jitter=3.0, color_jitter=0.0))
    still = make_game(tiny(landmark_jitter=0.0, color_jitter=0.0))
    shown = []
    for one in (game, still):
        learn = one.recognizer.loss
        one.recognizer.loss = lambda crops, *rest, learn=learn, **words: (
            shown.append(crops.detach()) or learn(crops, *rest, **words)
        )
        one.update_recognizer(faces[0], faces[0], *faces[1:])  # f' = f
    # However the halves are passed to D, together or one after the other.
    seen = torch.cat(shown)
    jittered, unmoved = seen.view(2, -1, *seen.shape[1:])
    modified, original = jittered.view(2, -1, *seen.shape[1:])
    assert torch.equal(modified, original), "the jitter is drawn twice"
    assert (jittered - unmoved).abs().mean() > 0.01, "the landmark jitter is forgotten"


@pytest.mark.parametrize("row", ["Ours", "Masked"])
@pytest.mark.rubric("D learns from modified and original faces alike")
def test_a_row_hands_D_what_M_makes_of_its_faces(tiny, tiny_faces, tiny_actions, tmp_path, row):
    config = tiny(T1=2, T2=0, recognizer_updates=2)
    game = make_game(config, row)
    learn = game.update_recognizer
    steps = []

    def noted(pictures, modified, *rest):
        with torch.no_grad():
            expected = game.anonymizer(pictures)  # M moves only later, in line 9
        torch.testing.assert_close(modified.detach(), expected, atol=1e-4, rtol=1e-4)
        assert not torch.equal(modified, pictures), "line 3 gets f in place of f'"
        steps.append(pictures)
        return learn(pictures, modified, *rest)

    game.update_recognizer = noted
    trainer.play(game, tiny_faces, tiny_actions, config, Loop(tmp_path, row, 3, {}, 1, 0))
    assert len(steps) == 4


@pytest.mark.rubric(
    "L_det reaches M through the pasted faces",
    points=2,
    hint=(
        "no_grad around the repainting cuts M off from L_det; frames without a face, and "
        "Un-anonymized frames, are the frames themselves and not a blur of them; L_adv weighs "
        "adversarial_weight, at 0 it says nothing to M"
    ),
)
def test_L_det_reaches_M_through_the_pasted_pixels(tiny, faces, frames):
    game = make_game(tiny(adversarial_weight=0.0, l1_weight=0.0))
    before = snapshot(game)
    update_both(game, faces, frames)
    assert "M" in moved(before, snapshot(game))


@pytest.mark.rubric("L_det reaches M through the pasted faces")
def test_at_weight_0_L_adv_says_nothing_to_M_in_the_warm_up_either(tiny, faces):
    game = make_game(tiny(adversarial_weight=0.0, l1_weight=0.0))
    before = snapshot(game)
    game.update_modifier(faces[0], game.anonymize(faces[0]), *faces[1:])
    assert not moved(before, snapshot(game))


@pytest.mark.rubric("L_det reaches M through the pasted faces")
def test_without_a_face_L_det_says_nothing_to_M_but_trains_A(tiny, faces, frames):
    game = make_game(tiny(adversarial_weight=0.0, l1_weight=0.0))
    seen = []
    before = snapshot(game)
    learn = game.detector.losses
    game.detector.losses = lambda repainted, targets: (
        seen.append(repainted) or learn(repainted, targets)
    )
    update_both(game, faces, faceless(frames))
    assert set(moved(before, snapshot(game))) == {"A"}
    game.finetune_detector(*faceless(frames))
    assert (
        all(torch.equal(x, frames[0]) for x in seen) and len(seen) == 2
    )  # A gets such frames unmodified


@pytest.mark.rubric("line 11 moves A alone, on repainted frames")
def test_A_learns_from_repainted_frames(config, frames):
    game = make_game(config, "Masked")
    seen = []
    learn = game.detector.losses
    game.detector.losses = lambda repainted, targets: (
        seen.append(repainted) or learn(repainted, targets)
    )
    game.finetune_detector(*frames)
    x0, y0, x1, y1 = frames[2][0][0].ceil().int().tolist()
    assert (seen[0][0, :, y0 : y1 - 1, x0 : x1 - 1] < -0.999).all() and not torch.equal(
        seen[0], frames[0]
    )


@pytest.mark.rubric("L_det reaches M through the pasted faces")
def test_un_anonymized_frames_are_the_frames_themselves(config, faces, frames):
    """A resampled crop would be a slight blur: the row that shows A at its best has none."""
    game = make_game(config, "Un-anonymized")
    seen = []
    learn = game.detector.losses
    game.detector.losses = lambda repainted, targets: (
        seen.append(repainted) or learn(repainted, targets)
    )
    update_both(game, faces, frames)
    game.finetune_detector(*frames)
    assert len(seen) == 2 and all(torch.equal(x, frames[0]) for x in seen)

    def resampled(crops):
        return crops

    resampled.size = config.face_size
    pasted = repaint(frames[0], frames[2], resampled)
    assert not torch.equal(pasted, frames[0]) and (pasted != frames[0]).any(1).float().mean() < 0.6


def D_loss(game, faces, reduction="mean"):
    """L_D of M's pictures without the margin, by hand: softmax over length times cosine."""
    with torch.no_grad():
        size = (game.config.recognizer_height, game.config.recognizer_breadth)
        features = game.recognizer.network(aligned_crops(game.anonymizer(faces[0]), faces[1], size))
        cosines = (
            nn.functional.normalize(features)
            @ nn.functional.normalize(game.recognizer.head.weight).T
        )  # (B, N)
        length = game.config.recognizer_scale or features.norm(dim=1, keepdim=True)
        return nn.functional.cross_entropy(length * cosines, faces[2], reduction=reduction)


@pytest.mark.rubric(
    "M raises L_D and lowers L1",
    points=3,
    hint=(
        "M descends L_adv, so L_D enters with a minus sign, read without its margin unless "
        "adversarial_margin asks for it; the L1 weight counts once"
    ),
)
def test_M_ascends_L_D(tiny, faces, frames):
    """With no other term and the cap out of reach, a small step of M makes D's loss larger."""
    game = make_game(
        tiny(detection_weight=0.0, l1_weight=0.0, adversarial_cap=1e6, lr_modifier=1e-5)
    )
    before = float(D_loss(game, faces))
    terms = update_both(game, faces, frames)
    assert terms["L_adv"].item() == pytest.approx(-before, rel=1e-5)
    assert float(D_loss(game, faces)) > before


@pytest.mark.parametrize("scale", [0.0, 16.0])
@pytest.mark.rubric("M raises L_D and lowers L1")
def test_M_reads_L_D_without_its_margin(tiny, faces, scale):
    """log N, the unit of the cap, is the loss at chance without a margin; D trains with it."""
    game = make_game(
        tiny(recognizer_scale=scale, adversarial_cap=1e6, lambda_base=0.0, lambda_floor=0.0)
    )  # all margin
    modified = game.anonymize(faces[0]).detach()
    wanted = float(D_loss(game, faces))
    assert float(game.modifier_objective(modified, *faces[1:]).detach()) == pytest.approx(
        -wanted, rel=1e-4
    )
    assert (
        float(game.update_recognizer(faces[0], modified, *faces[1:])["D_modified"].detach())
        > 1.05 * wanted
    )


@pytest.mark.rubric("M raises L_D and lowers L1")
def test_equation_2_as_printed(tiny, faces):
    """With the paper's preset M's term is -E[L_D(M(f), i_f)], margin included, without a cap."""
    paper = presets.build("paper")
    printed = {"adversarial_cap": paper.adversarial_cap, "adversarial_margin": True}
    assert paper.adversarial_margin and paper.adversarial_cap == math.inf
    game = make_game(tiny(**printed, lambda_base=0.0, lambda_floor=0.0))  # all margin
    modified = game.anonymize(faces[0]).detach()
    size = (game.config.recognizer_height, game.config.recognizer_breadth)
    crops = aligned_crops(modified, faces[1], size)
    wanted = float(game.recognizer.loss(crops, faces[2]).detach())
    assert wanted > 1.05 * float(D_loss(game, faces))  # which has no margin
    assert float(game.modifier_objective(modified, *faces[1:]).detach()) == pytest.approx(-wanted)


@pytest.mark.rubric("M raises L_D and lowers L1")
def test_M_descends_L1(tiny, faces, frames):
    game = make_game(
        tiny(detection_weight=0.0, adversarial_weight=0.0, l1_weight=3.0, lr_modifier=1e-5)
    )

    def distance():
        with torch.no_grad():
            return float((game.anonymizer(faces[0]) - faces[0]).abs().mean())

    before = distance()
    terms = update_both(game, faces, frames)
    assert terms["L_l1"].item() == pytest.approx(3 * before, rel=1e-5)  # lambda once, as in eq. 3
    assert distance() < before


@pytest.mark.rubric(
    "the cap and the random-label ablation",
    points=2,
    hint=(
        "cap each face at adversarial_cap log N, not the mean; the ablation descends L_D "
        "towards random other people, not the true identity; L_det weighs detection_weight, at 0 "
        "it says nothing to M"
    ),
)
def test_faces_over_the_cap_give_no_gradient(tiny, faces):
    ordered = D_loss(make_game(tiny()), faces, "none").sort().values
    cap = float(ordered[1] + ordered[2]) / 2  # two below, two above
    game = make_game(tiny(adversarial_cap=cap / math.log(PEOPLE)))  # the same players
    modified = game.anonymizer(faces[0]).detach().requires_grad_()
    game.modifier_objective(modified, *faces[1:]).backward()
    pushed = modified.grad.abs().amax(dim=(1, 2, 3)) > 0
    assert torch.equal(pushed, D_loss(game, faces, "none") < cap) and int(pushed.sum()) == 2


@pytest.mark.rubric("the cap and the random-label ablation")
def test_M_stands_still_when_every_face_is_over_the_cap(tiny, faces, frames):
    game = make_game(tiny(detection_weight=0.0, l1_weight=0.0, adversarial_cap=1e-6))
    before = snapshot(game)
    update_both(game, faces, frames)
    assert "M" not in moved(before, snapshot(game))


@pytest.mark.rubric("the cap and the random-label ablation")
def test_random_label_ablation_descends_towards_somebody_else(tiny, faces):
    game = make_game(tiny(adversarial_target="random"))
    modified = game.anonymize(faces[0]).detach()
    torch.manual_seed(5)
    value = game.modifier_objective(modified, *faces[1:])
    torch.manual_seed(5)
    targets = losses.random_label_targets(faces[2], PEOPLE)
    size = (game.config.recognizer_height, game.config.recognizer_breadth)
    assert (targets != faces[2]).all()
    torch.testing.assert_close(
        value, game.recognizer.loss(aligned_crops(modified, faces[1], size), targets, margin=False)
    )
    ascent = make_game(tiny()).modifier_objective(modified, *faces[1:])
    assert value.item() > 0 > ascent.item()


@pytest.mark.parametrize("target", ["entropy", "non_saturating"])
def test_terms_that_are_ours_read_D_without_its_margin(tiny, faces, frames, target):
    game = make_game(tiny(adversarial_target=target, detection_weight=0.0, recognizer_scale=0.0))
    modified = game.anonymize(faces[0]).detach()
    size = (game.config.recognizer_height, game.config.recognizer_breadth)
    crops = aligned_crops(modified, faces[1], size)
    game.recognizer.eval()
    embeddings = game.recognizer.network(crops)  # (B, E)
    directions = nn.functional.normalize(game.recognizer.head.weight, dim=1)  # (N, E)
    p = (embeddings @ directions.T).softmax(dim=1).double()  # |x| cos = x . w
    if target == "entropy":
        wanted = (p * p.log()).sum(dim=1).mean()
    else:
        true = p.gather(1, faces[2][:, None])[:, 0]
        wanted = torch.where(true > 1 / PEOPLE, -(1 - true).log(), 0.0).mean()
    value = game.modifier_objective(modified, *faces[1:])
    torch.testing.assert_close(value.double(), wanted, atol=1e-5, rtol=1e-4)
    before = snapshot(game)
    update_both(game, faces, frames)
    assert "M" in moved(before, snapshot(game))
    assert "D" not in moved(before, snapshot(game))


def test_random_label_ablation_trains_another_M(tiny, faces, frames):
    games = [
        make_game(tiny(adversarial_target=target, detection_weight=0.0))
        for target in ("ascent", "random")
    ]
    for game in games:
        before = snapshot(game)
        torch.manual_seed(0)
        update_both(game, faces, frames)
        assert "M" in moved(before, snapshot(game))
    assert moved(snapshot(games[0]), snapshot(games[1])).keys() >= {"M"}


@pytest.mark.rubric(
    "learning rates follow the paper's schedule",
    points=1,
    hint=(
        "Adam's betas are (0.5, 0.999); the rate is a tenth once lr_drop_at of the steps are "
        "done, so step > and not >=; each player has its own rate, in the warm-up M has lr_warmup "
        "and not the game's rate; T1 and T2 are stages of their own, each with its own number of "
        "steps and no drop over both; "
        "optimizers not saved by parts() start anew in a resumed run, and so does the count of an "
        "anonymizer that draws noise"
    ),
)
def test_learning_rates_are_the_papers_schedule(tiny):
    """Sec. 4: Adam (0.5, 0.999), 1e-3 for A, 3e-4 for M and D, a tenth after 7 of 12 epochs."""
    paper = presets.build("paper")
    game = make_game(
        tiny(
            **{
                f"lr_{player}": getattr(paper, f"lr_{player}")
                for player in ("detector", "modifier", "recognizer")
            }
        )
    )
    assert all(
        group["betas"] == (0.5, 0.999) and type(adam) is torch.optim.Adam
        for _, group, adam in optimized(game)
    )
    for epoch in range(1, 13):
        game.set_rates(epoch, 12)
        factor = 1 if epoch <= 7 else 0.1
        rates = {player: group["lr"] for player, group, _ in optimized(game)}
        assert rates == pytest.approx({"A": 1e-3 * factor, "M": 3e-4 * factor, "D": 3e-4 * factor})


@pytest.mark.rubric("learning rates follow the paper's schedule")
def test_the_optimizers_are_among_the_parts(config):
    """Adam's means of the gradients belong into a checkpoint, or a resumed run starts them anew."""
    assert {player for player, _, _ in optimized(make_game(config))} == {"A", "D", "M"}


@pytest.mark.rubric("learning rates follow the paper's schedule")
def test_an_anonymizer_with_a_state_is_among_the_parts(config):
    """Noise counts its calls, or a resumed run draws the same noise again."""
    game = make_game(config, "Noise(0.1)")
    assert any(part is game.anonymizer for part in game.parts().values())


def watch_rates(monkeypatch, name, seen):
    """Append to `seen`, player -> rate, at each call of an update of any Game."""
    update = getattr(trainer.Game, name)

    def noted(game, *arguments):
        seen.append({player: group["lr"] for player, group, _ in optimized(game)})
        return update(game, *arguments)

    monkeypatch.setattr(trainer.Game, name, noted)


@pytest.mark.rubric("learning rates follow the paper's schedule")
def test_each_stage_of_a_row_has_its_own_rates(
    tiny, tiny_faces, tiny_actions, tmp_path, monkeypatch
):
    config = tiny(T1=4, T2=2, lr_drop_at=0.5, warmup_steps=2, lr_warmup=7e-3)
    rates = {"update_modifier": [], "update_modifier_and_detector": [], "finetune_detector": []}
    for name, seen in rates.items():
        watch_rates(monkeypatch, name, seen)
    game = make_game(config)
    trainer.play(game, tiny_faces, tiny_actions, config, Loop(tmp_path, "Ours", 3, {}, 1, 0))
    assert rates["update_modifier"][0]["M"] == pytest.approx(7e-3), "the warm-up has lr_warmup"
    factors = {"update_modifier_and_detector": (1, 1, 0.1, 0.1), "finetune_detector": (1, 0.1)}
    for name, wanted in factors.items():
        of_A = [rate["A"] for rate in rates[name]]
        assert of_A == pytest.approx([config.lr_detector * x for x in wanted]), name


@pytest.mark.rubric("a row takes its steps in order")
def test_every_row_sees_the_same_data_with_its_boxes(tiny, tiny_faces, tiny_actions, tmp_path):
    """In the seed's order, whatever else has drawn from torch's global chance."""
    config = tiny(T1=3, T2=2)
    width = tiny_actions.pictures.shape[3]
    orders = []
    for row in ("Ours", "Masked"):
        game = make_game(config, row)
        order = []
        for name in ("update_recognizer", "update_modifier_and_detector", "finetune_detector"):

            def noted(*batch, update=getattr(game, name), order=order):
                torch.rand(1)  # as another row may
                here = len(order)
                terms = update(*batch)
                del order[here:]
                order.append(batch)
                return terms

            setattr(game, name, noted)
        loop = Loop(tmp_path / row, row, 3, {}, 1, 0)
        trainer.play(game, tiny_faces, tiny_actions, config, loop)
        orders.append(order)
    updates = (config.recognizer_updates + 1) * config.T1 + config.T2
    assert len(orders[0]) == len(orders[1]) == updates
    originals, targets, _ = tiny_actions.batch(torch.arange(len(tiny_actions)))
    for ours, masked in zip(*orders):
        # The last three are frames, targets and face boxes; before them come faces, if any.
        if len(ours) == 4:
            assert torch.equal(ours[0], masked[0]) and torch.equal(ours[3], masked[3])
            continue
        assert torch.equal(ours[-3], masked[-3])
        for frame, target in zip(ours[-3], ours[-2]):
            for original, its in zip(originals, targets):
                mirrored = width - its["boxes"][:, [2, 1, 0, 3]]
                mirrored[:, [1, 3]] = its["boxes"][:, [1, 3]]
                if torch.equal(frame, original):
                    torch.testing.assert_close(target["boxes"], its["boxes"])
                    break
                if torch.equal(frame, original.flip(-1)):
                    torch.testing.assert_close(target["boxes"], mirrored)
                    break
            else:
                pytest.fail("a frame is none of V's, nor a mirrored one")


class PowerCut(Exception):
    pass


@pytest.mark.rubric("a row takes its steps in order")
def test_a_resumed_row_goes_on_where_its_data_stopped(tiny, tiny_faces, tiny_actions, tmp_path):
    config = tiny(T1=3, T2=2, recognizer_updates=2)
    seen = {"unbroken": [], "resumed": []}

    def run(name, cut=None):
        game = make_game(config, "Masked")

        def watch(update, which, term):
            def noted(*batch):
                if len(seen[name]) == cut:
                    raise PowerCut
                seen[name].append(batch[which])
                return {term: torch.zeros(())}

            setattr(game, update, noted)

        watch("update_recognizer", 0, "D_modified")  # its faces
        watch("update_modifier_and_detector", -3, "L_det")  # its frames
        watch("finetune_detector", 0, "L_det")
        loop = Loop(tmp_path / name, name, 3, {}, 1, 0)  # a checkpoint after each step
        trainer.play(game, tiny_faces, tiny_actions, config, loop)

    run("unbroken")
    for cut in (6, 10):  # as the third step of T1 begins, and the second of T2
        with pytest.raises(PowerCut):
            run("resumed", cut)
    run("resumed")
    assert len(seen["unbroken"]) == len(seen["resumed"]) == 3 * 3 + 2
    assert all(map(torch.equal, seen["unbroken"], seen["resumed"]))


def gradients(game, update):
    """What the optimizers step by in an update: all their gradients in one tensor."""
    seen = []

    def note(adam, arguments, words):
        weights = [p for group in adam.param_groups for p in group["params"]]
        seen.extend(p.grad.flatten().clone() for p in weights if p.grad is not None)

    handles = [adam.register_step_pre_hook(note) for adam in {a for *_, a in optimized(game)}]
    update(game)
    for handle in handles:
        handle.remove()
    return torch.cat(seen)


@pytest.mark.rubric("a row takes its steps in order")
def test_accumulation_gives_the_same_gradients(tiny, faces, frames, monkeypatch):
    """Of a batch in parts, one after another, and of the whole batch at once."""
    monkeypatch.setattr(optim, "MAX_NORM", math.inf)  # cut to one length, they would look alike

    def modified(game):
        return game.anonymize(faces[0])

    updates = {
        "line 3": lambda game: game.update_recognizer(faces[0], modified(game), *faces[1:]),
        "line 9": lambda game: update_both(game, faces, frames),
        "line 9 without A": lambda game: game.update_modifier(faces[0], modified(game), *faces[1:]),
        "line 11": lambda game: game.finetune_detector(*frames),
        "copying": lambda game: game.copy_faces(faces[0]),
    }
    for name, update in updates.items():
        both = []
        for parts in (1, 2):
            game = make_game(tiny(accumulate=parts, landmark_jitter=0.0, color_jitter=0.0))
            weight = next(game.detector.parameters())
            # Batch norm sees the parts, and A draws its samples: a stand-in that does neither.
            game.detector.losses = lambda v, _, weight=weight: dict.fromkeys(
                losses.DETECTION_LOSSES, (v.mean() + 1) * weight.mean()
            )
            both.append(gradients(game, update))
        torch.testing.assert_close(*both, atol=1e-5, rtol=1e-3, msg=f"{name}: other gradients")


@pytest.mark.parametrize("row", ["Ours", "Masked"])
@pytest.mark.rubric("a row takes its steps in order")
def test_a_row_takes_its_steps_in_order(tiny, tiny_faces, tiny_actions, tmp_path, row):
    config = tiny(T1=2, T2=1, recognizer_updates=3)
    order = []
    game = make_game(config, row)
    for name in ("update_recognizer", "update_modifier_and_detector", "finetune_detector"):

        def noted(*arguments, name=name, update=getattr(game, name)):
            order.append(name)
            here = len(order)
            terms = update(*arguments)
            del order[here:]  # what an update calls is its own affair
            return terms

        setattr(game, name, noted)
    trainer.play(game, tiny_faces, tiny_actions, config, Loop(tmp_path, row, 3, {}, 1, 0))
    assert order == (["update_recognizer"] * 3 + ["update_modifier_and_detector"]) * 2 + [
        "finetune_detector"
    ]
    assert int(game.recognizer.margin.step) == 6  # M's warm-up is against a copy


@pytest.mark.rubric("a row takes its steps in order")
def test_D_learns_again_from_batches_of_what_is_kept(tiny, tiny_faces):
    warmup = trainer.WarmUp(make_game(tiny(warmup_updates=16)))
    shown = []
    warmup.update_recognizer = lambda *batch: shown.append(batch)
    batches = [tiny_faces.batch(torch.arange(4 * n, 4 * n + 4)) for n in range(2)]
    for pictures, landmarks, identities in batches:
        shown.clear()
        warmup.update_on_kept(pictures, -pictures, landmarks, identities)
        assert len(shown) == 16
    seen = {int(person) for *_, identities in shown for person in identities}
    assert seen == {0, 1}, "the batch before is kept, too"  # a person's four pictures a batch
    for pictures, modified, *_ in shown:
        assert pictures.shape == modified.shape == batches[0][0].shape
        torch.testing.assert_close(modified, -pictures, atol=0.01, rtol=0)


@pytest.mark.rubric("a row takes its steps in order")
def test_A_is_pretrained_on_original_frames(tiny, tiny_actions, tmp_path):
    config = tiny(pretrain_detector_steps=2)
    detector = make_detector(config, CLASSES)
    seen = []
    learn = detector.losses
    before = [p.clone() for p in detector.parameters()]
    detector.losses = lambda frames, targets: seen.extend(frames) or learn(frames, targets)
    trained = trainer.pretrain_detector(
        detector, tiny_actions, config, Loop(tmp_path, "A", 3, {}, 1, 0)
    )
    originals = tiny_actions.batch(torch.arange(len(tiny_actions)))[0]
    assert len(seen) == 2 * config.batch_frames and not trained.training
    assert not all(torch.equal(*pair) for pair in zip(before, trained.parameters()))
    assert all(
        any(torch.equal(x, y) or torch.equal(x, y.flip(-1)) for y in originals) for x in seen
    )
