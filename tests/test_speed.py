"""ppad.speed: parts, layout, checkpointing and precision change how a step is computed, not what it is; off, they do nothing."""

import copy

import pytest
import torch
from torch import nn

from ppad import config as presets
from ppad import trainer
from ppad.checkup import kept_bytes
from ppad.loop import Loop
from ppad.speed import Speed, blocks, recompute

PEOPLE, CLASSES = 6, 10


def make_game(config):
    torch.manual_seed(0)
    return trainer.Game(
        config,
        trainer.make_recognizer(config, PEOPLE),
        trainer.make_detector(config, CLASSES),
        trainer.make_modifier(config),
    )


def gradients(module):
    return torch.cat([p.grad.flatten() for p in module.parameters()])


def test_all_is_off_unless_asked_for():
    for name in presets.PRESETS:
        config = presets.build(name)
        speed = Speed(config, "cpu")
        assert (
            config.precision,
            config.channels_last,
            config.compile,
            config.fused,
            config.accumulate,
        ) == ("fp32", False, False, False, 1)
        assert not config.checkpointing
        assert speed.parts() == {} and not speed.scaler.is_enabled()
        with speed.autocast():
            assert not torch.is_autocast_enabled("cpu")


# ------------------------------------------------------------------ accumulation


@pytest.mark.parametrize("turns", [2, 4])
def test_a_batch_in_parts_gives_D_and_M_the_gradients_of_the_whole(tiny, faces, turns):
    whole, parted = (
        make_game(tiny(landmark_jitter=0.0, lr_recognizer=0.0, batch_frames=4, accumulate=n))
        for n in (1, turns)
    )
    told = []
    for game in (whole, parted):
        pictures, landmarks, identities = faces
        with torch.set_grad_enabled(game is whole):
            modified = game.anonymize(pictures)
        batch = pictures, modified, landmarks, identities
        terms = game.speed.in_parts(game.update_recognizer, *batch)
        of_D = gradients(game.recognizer)
        terms |= game.speed.in_parts(game.update_modifier, *batch)
        told.append((terms, of_D, gradients(game.anonymizer)))
    (terms, *expected), (parted_terms, *got) = told
    for one, other in zip(expected, got):
        assert one.abs().max() > 1e-4
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)
    assert {k: v.item() for k, v in parted_terms.items()} == pytest.approx(
        {k: v.item() for k, v in terms.items()}, rel=1e-4
    )
    assert int(parted.recognizer.margin.step) == 1  # one update of D, whatever its parts
    assert (parted.speed.turn, parted.speed.turns) == (0, 1)


def test_parts_end_in_one_step_of_both_players(tiny, faces, frames):
    game = make_game(tiny(accumulate=2))
    with torch.no_grad():
        modified = game.anonymize(faces[0])
    game.speed.in_parts(game.update_modifier_and_detector, faces[0], modified, *faces[1:], *frames)
    for name in ("modifier", "detector"):
        assert {int(state["step"]) for state in game.optimizers[name].state.values()} == {1}
    assert "recognizer" in game.optimizers and not game.optimizers["recognizer"].state


def test_a_row_is_played_in_parts(tiny, tiny_faces, tiny_actions, tmp_path):
    config = tiny(accumulate=2, T1=2, T2=1)
    game = make_game(config)
    trainer.play(game, tiny_faces, tiny_actions, config, Loop(tmp_path, "Ours", 3, {}, 1, 1e9))
    assert int(game.recognizer.margin.step) == 2 * config.recognizer_updates
    assert {int(state["step"]) for state in game.optimizers["detector"].state.values()} == {3}


def test_parts_must_be_equal(tiny):
    with pytest.raises(
        presets.ConfigError, match="accumulate is 3: it must divide batch_faces, which is 4"
    ):
        tiny(accumulate=3)
    with pytest.raises(ValueError, match="accumulate is 2: it must divide a batch of 3"):
        Speed(tiny(accumulate=2), "cpu").in_parts(lambda batch: {}, torch.zeros(3))


# ------------------------------------------------------------------ activation checkpointing


def a_step(game, faces, frames):
    """Everything that a step leaves behind: terms, gradients, weights and batch norm's averages."""
    pictures, landmarks, identities = faces
    with torch.set_grad_enabled(game.config.accumulate == 1):
        modified = game.anonymize(pictures)
    torch.manual_seed(1)
    terms = game.speed.in_parts(game.update_recognizer, pictures, modified, landmarks, identities)
    left = [gradients(game.recognizer)]
    terms |= game.speed.in_parts(
        game.update_modifier_and_detector, pictures, modified, landmarks, identities, *frames
    )
    left += [gradients(game.anonymizer), gradients(game.detector)]
    for player in (game.recognizer, game.anonymizer, game.detector):
        left += player.state_dict().values()
    return [*terms.values(), *left]


@pytest.mark.parametrize(
    "how",
    [{}, {"accumulate": 2}, {"precision": "bf16"}, {"channels_last": True, "accumulate": 2}],
    ids=["plain", "parts", "bf16", "channels_last in parts"],
)
def test_checkpointing_changes_no_bit_of_a_step(tiny, faces, frames, how):
    """Also not the averages of A's batch norm, which its body works out twice: they count a step once."""
    plain, saving = (
        make_game(tiny(checkpointing=checkpointing, **how)) for checkpointing in (False, True)
    )
    assert list(plain.detector.state_dict()) == list(saving.detector.state_dict())
    for one, other in zip(a_step(plain, faces, frames), a_step(saving, faces, frames)):
        assert torch.equal(one, other)
    norm = next(layer for layer in saving.detector.modules() if isinstance(layer, nn.BatchNorm2d))
    assert int(norm.num_batches_tracked) == how.get("accumulate", 1) and norm.momentum == 0.1


def test_what_is_checkpointed_in_the_papers_networks():
    with torch.device("meta"):
        config = presets.build("paper")
        modifier, network = (
            trainer.make_modifier(config),
            trainer.make_recognizer(config, PEOPLE).network,
        )
        body = trainer.make_detector(config, CLASSES).model.backbone
    named = [
        [name for one in blocks(player) for name, module in player.named_modules() if module is one]
        for player in (modifier, network, body)
    ]
    assert named[0] == ["shrink", *(f"change.{i}" for i in range(9)), "paint"]
    assert named[1] == [f"stages.{i}" for i in range(12)]  # 4 convolutions and 8 residual units
    assert named[2] == [
        f"body.layer{stage}.{i}"
        for stage, count in enumerate((3, 4, 23, 3), 1)
        for i in range(count)
    ]


def test_checkpointing_keeps_less_and_gives_the_gradients_of_the_input():
    with torch.device("meta"):
        plain, saving = (
            nn.Sequential(
                *(
                    nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.Sigmoid(), nn.Sigmoid())
                    for _ in range(4)
                )
            )
            for _ in range(2)
        )
    recompute(saving)
    one = 4 * 2 * 8 * 100  # bytes of one map of a batch of two
    # each block: its input and two outputs of a sigmoid, the second of which is the next one's input; or the input alone
    assert (kept_bytes(plain, 2, 8, 10, 10), kept_bytes(saving, 2, 8, 10, 10)) == (9 * one, 4 * one)
    recompute(saving)  # once is enough
    assert saving[0].forward.func is not None and not hasattr(saving[0].forward.args[1], "func")


def test_a_copy_of_a_checkpointed_network_is_checkpointed_by_itself(tiny, faces):
    game = make_game(tiny(checkpointing=True))
    partner = copy.deepcopy(game.recognizer)
    nn.init.zeros_(partner.network.stages[0][0].weight)
    changed = partner.network.stages[0]
    assert changed.forward.args[0] is changed and changed.forward.args[1].__self__ is changed
    assert not torch.equal(
        partner(torch.ones(1, 3, 28, 24)), game.recognizer(torch.ones(1, 3, 28, 24))
    )


def test_checkpointing_and_compile_exclude_each_other(tiny):
    with pytest.raises(presets.ConfigError, match="checkpointing is true, and so is compile"):
        tiny(checkpointing=True, compile=True)


# ------------------------------------------------------------------ precision


def test_bf16_is_near_fp32_and_keeps_angles_and_weights_whole(tiny, faces, frames):
    told, seen = {}, []
    for precision in ("fp32", "bf16"):
        game = make_game(tiny(precision=precision, landmark_jitter=0.0, adversarial_cap=1e6))
        game.recognizer.head.register_forward_hook(
            lambda head, given, made: seen.append((given[0].dtype, made[0].dtype))
        )
        modified = game.anonymize(faces[0])
        assert modified.dtype == torch.float32
        torch.manual_seed(1)
        told[precision] = game.update_recognizer(
            faces[0], modified, *faces[1:]
        ) | game.update_modifier_and_detector(faces[0], modified, *faces[1:], *frames)
        assert all(
            p.dtype == torch.float32
            for player in (game.recognizer, game.detector, game.anonymizer)
            for p in player.parameters()
        )
    assert set(seen) == {(torch.float32, torch.float32)}
    for name, value in told["fp32"].items():
        # bf16 keeps 8 bits; A draws other regions when its proposals change places
        assert told["bf16"][name].item() == pytest.approx(
            value.item(), rel=0.5 if name == "L_det" else 0.1
        ), name
        assert told["bf16"][name].item() != value.item(), name  # it was at work


def test_fp16_leaves_out_a_step_whose_gradients_run_over_and_halves_its_scale(tiny):
    speed, weight = Speed(tiny(precision="fp16"), "cpu"), nn.Parameter(torch.ones(1))
    optimizer = speed.adam([weight], 0.1)
    speed.descend([optimizer], weight.sum())
    assert weight.item() == pytest.approx(0.9) and set(speed.parts()) == {
        "scaler"
    }  # scaled up, and down again
    before, scale = weight.item(), speed.scaler.get_scale()
    speed.descend([optimizer], (weight * float("inf")).sum())
    assert weight.item() == before and speed.scaler.get_scale() == scale / 2
    again = Speed(tiny(precision="fp16"), "cpu")
    again.scaler.load_state_dict(speed.scaler.state_dict())
    assert again.scaler.get_scale() == scale / 2


def test_precision_decides_a_result_and_older_runs_were_plain(tiny, tmp_path):
    path, plain = tmp_path / "config.json", tiny()
    path.write_text(
        presets.as_json(plain, "toy").replace('"precision": "fp32",', "")
    )  # before there was the field
    assert (
        presets.differences(tiny(channels_last=True, accumulate=2, checkpointing=True), "toy", path)
        == []
    )
    assert presets.differences(tiny(precision="bf16"), "toy", path) == [
        "precision: None there, 'bf16' here"
    ]
    with pytest.raises(presets.ConfigError, match="precision is 'half': it must be"):
        tiny(precision="half")


# ------------------------------------------------------------------ layout and loops


def test_channels_last_gives_the_plain_gradients_and_names(tiny, faces):
    plain, tuned = (
        make_game(tiny(landmark_jitter=0.0)),
        make_game(tiny(landmark_jitter=0.0, channels_last=True)),
    )
    assert next(tuned.recognizer.network.parameters()).is_contiguous(
        memory_format=torch.channels_last
    )
    for game in (plain, tuned):
        game.update_recognizer(faces[0], game.anonymize(faces[0]), *faces[1:])
    torch.testing.assert_close(
        gradients(tuned.recognizer), gradients(plain.recognizer), rtol=1e-4, atol=1e-5
    )
    assert list(plain.recognizer.state_dict()) == list(tuned.recognizer.state_dict())


def test_fused_adam_takes_the_plain_step(tiny):
    moved = []
    for fused in (False, True):
        weight = nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
        speed = Speed(tiny(fused=fused), "cpu")
        optimizer = speed.adam([weight], 0.1, (0.5, 0.999))
        assert optimizer.param_groups[0]["fused"] is (True if fused else None)
        for _ in range(3):
            speed.descend([optimizer], weight.square().sum())
        moved.append(weight.detach())
    torch.testing.assert_close(*moved)
    assert moved[0][0] < 0.8


def test_compiling_renames_nothing_and_a_copy_is_a_plain_network(tiny):
    plain, compiled = make_game(tiny()), make_game(tiny(compile=True))
    for one, other in (
        (plain.recognizer, compiled.recognizer),
        (plain.detector, compiled.detector),
        (plain.anonymizer, compiled.anonymizer),
    ):
        assert list(one.state_dict()) == list(other.state_dict())
    assert (
        compiled.anonymizer._compiled_call_impl is not None
        and plain.anonymizer._compiled_call_impl is None
    )
    assert (
        copy.deepcopy(compiled.recognizer).network._compiled_call_impl is None
    )  # the partner's game compiles its own
