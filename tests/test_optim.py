"""ppad.optim: how a step is computed must not change what it computes; off, nothing changes.

Accumulation, checkpointing, precision, layout; and two real processes (torchrun, gloo), which must
train what one trains, stop and go on together, and write once.
"""

import copy
import os
import subprocess
import sys
from pathlib import Path

import optim_child
import pytest
import torch
from test_reproduce import read, run
from torch import nn

from ppad import config as presets
from ppad import optim, trainer
from ppad.detector import ToyBody
from ppad.loop import Loop, read_checkpoint, read_log
from ppad.optim import kept_bytes
from ppad.players import make_detector, make_modifier, make_recognizer

ROOT = Path(__file__).resolve().parents[1]
PEOPLE = 6
CLASSES = 10
needs_gloo = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
    reason="this torch has no gloo",
)


def make_game(config):
    torch.manual_seed(0)
    return trainer.Game(
        config,
        make_recognizer(config, PEOPLE),
        make_detector(config, CLASSES),
        make_modifier(config),
    )


def watch_gradients(game):
    """A dict that gets each player's gradients, flattened, when its optimizer takes a step."""
    gradients = {}

    def note(optimizer, args, kwargs):
        name = next(name for name, one in game.optimizers.items() if one is optimizer)
        weights = optimizer.param_groups[0]["params"]
        gradients[name] = torch.cat([weight.grad.flatten() for weight in weights])

    for optimizer in game.optimizers.values():
        optimizer.register_step_pre_hook(note)
    return gradients


def line_2(game, pictures):
    """M's output as `play` makes it: in parts, line 9 makes the graph again."""
    with torch.set_grad_enabled(game.config.accumulate == 1):
        return game.anonymize(pictures)


def test_all_is_off_unless_asked_for():
    for name in presets.PRESETS:
        config = presets.build(name)
        assert (
            config.precision,
            config.channels_last,
            config.compile,
            config.fused,
            config.accumulate,
        ) == ("fp32", False, False, False, 1)
        assert not config.checkpointing
        assert not optim.make_scaler(config, "cpu").is_enabled()
        with optim.autocast(config, "cpu"):
            assert not torch.is_autocast_enabled("cpu")


# ------------------------------------------------------------------ accumulation


@pytest.mark.parametrize("parts", [2, 4])
def test_a_batch_in_parts_gives_D_and_M_the_gradients_of_the_whole(tiny, faces, parts):
    whole = {}
    in_parts = {}
    for accumulate, results in ((1, whole), (parts, in_parts)):
        config = tiny(landmark_jitter=0.0, lr_recognizer=0.0, batch_frames=4, accumulate=accumulate)
        game = make_game(config)
        pictures, landmarks, identities = faces
        batch = pictures, line_2(game, pictures), landmarks, identities
        gradients = watch_gradients(game)
        results["terms"] = game.update_recognizer(*batch) | game.update_modifier(*batch)
        results |= gradients
        assert int(game.recognizer.margin.step) == 1  # one update of D, whatever its parts
    for player in ("recognizer", "modifier"):
        assert whole[player].abs().max() > 1e-4
        torch.testing.assert_close(in_parts[player], whole[player], rtol=1e-4, atol=1e-5)
    assert {k: v.item() for k, v in in_parts["terms"].items()} == pytest.approx(
        {k: v.item() for k, v in whole["terms"].items()}, rel=1e-4
    )


def test_parts_end_in_one_step_of_both_players(tiny, faces, frames):
    game = make_game(tiny(accumulate=2))
    game.update_modifier_and_detector(faces[0], line_2(game, faces[0]), *faces[1:], *frames)
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
        make_game(tiny(accumulate=2)).copy_faces(torch.zeros(3, 3, 32, 32))


# ------------------------------------------------------------------ activation checkpointing


def a_step(game, faces, frames):
    """All that a step leaves behind: terms, gradients, weights and batch norm's averages."""
    pictures, landmarks, identities = faces
    modified = line_2(game, pictures)
    gradients = watch_gradients(game)
    torch.manual_seed(1)
    terms = game.update_recognizer(pictures, modified, landmarks, identities)
    terms |= game.update_modifier_and_detector(pictures, modified, landmarks, identities, *frames)
    left = [*terms.values(), *gradients.values()]
    for player in (game.recognizer, game.anonymizer, game.detector):
        left += player.state_dict().values()
    return left


@pytest.mark.parametrize(
    "how",
    [{}, {"accumulate": 2}, {"precision": "bf16"}, {"channels_last": True, "accumulate": 2}],
    ids=["plain", "parts", "bf16", "channels_last in parts"],
)
def test_checkpointing_changes_no_bit_of_a_step(tiny, faces, frames, how):
    """Nor the averages of A's batch norm: its body is computed twice and counts a step once."""
    plain = make_game(tiny(checkpointing=False, **how))
    saving = make_game(tiny(checkpointing=True, **how))
    assert list(plain.detector.state_dict()) == list(saving.detector.state_dict())
    for one, other in zip(a_step(plain, faces, frames), a_step(saving, faces, frames)):
        assert torch.equal(one, other)
    norm = next(layer for layer in saving.detector.modules() if isinstance(layer, nn.BatchNorm2d))
    assert int(norm.num_batches_tracked) == how.get("accumulate", 1) and norm.momentum == 0.1


def test_checkpointed_batch_norm_of_several_gpus_learns():
    """Shared batch norm, as several GPUs have it, asks for its count at every pass."""
    body = nn.SyncBatchNorm.convert_sync_batchnorm(ToyBody())
    plain = copy.deepcopy(body)
    optim.recompute(body)
    frames = torch.rand(2, 3, 64, 64, requires_grad=True)
    gradients = []
    for one in (plain, body):
        (gradient,) = torch.autograd.grad(sum(x.sum() for x in one(frames).values()), frames)
        gradients.append(gradient)
    assert torch.equal(*gradients)
    for name, value in plain.state_dict().items():
        assert torch.equal(value, body.state_dict()[name])


def test_what_is_checkpointed_in_the_papers_networks():
    with torch.device("meta"):
        config = presets.build("paper")
        modifier = make_modifier(config)
        network = make_recognizer(config, PEOPLE).network
        body = make_detector(config, CLASSES).model.backbone
    named = [
        [
            name
            for one in optim.blocks(player)
            for name, module in player.named_modules()
            if module is one
        ]
        for player in (modifier, network, body)
    ]
    assert named[0] == ["encoder", *(f"residual_blocks.{i}" for i in range(9)), "decoder"]
    assert named[1] == [f"stages.{i}" for i in range(12)]  # 4 convolutions and 8 residual units
    assert named[2] == ["0", *(f"{n}.{i}" for n in (1, 2, 3) for i in range((3, 4, 23)[n - 1]))]


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
    optim.recompute(saving)
    one = 4 * 2 * 8 * 100  # bytes of one map of a batch of two
    # Each block keeps its input and two outputs of a sigmoid, the second of which is the input of
    # the next; or its input alone.
    assert (kept_bytes(plain, 2, 8, 10, 10), kept_bytes(saving, 2, 8, 10, 10)) == (9 * one, 4 * one)
    optim.recompute(saving)  # once is enough
    assert saving[0].forward.func is not None and not hasattr(saving[0].forward.args[1], "func")


def test_a_copy_of_a_checkpointed_network_is_checkpointed_by_itself(tiny, faces):
    game = make_game(tiny(checkpointing=True))
    warmup = copy.deepcopy(game.recognizer)
    nn.init.zeros_(warmup.network.stages[0][0].weight)
    changed = warmup.network.stages[0]
    assert changed.forward.args[0] is changed and changed.forward.args[1].__self__ is changed
    assert not torch.equal(
        warmup(torch.ones(1, 3, 28, 24)), game.recognizer(torch.ones(1, 3, 28, 24))
    )


def test_checkpointing_and_compile_exclude_each_other(tiny):
    with pytest.raises(presets.ConfigError, match="checkpointing is True: compile itself decides"):
        tiny(checkpointing=True, compile=True)


# ------------------------------------------------------------------ precision


def test_bf16_is_near_fp32_and_keeps_angles_and_weights_whole(tiny, faces, frames):
    terms = {}
    seen = []
    for precision in ("fp32", "bf16"):
        game = make_game(tiny(precision=precision, landmark_jitter=0.0, adversarial_cap=1e6))
        game.recognizer.head.register_forward_hook(
            lambda head, given, made: seen.append((given[0].dtype, made[0].dtype))
        )
        modified = game.anonymize(faces[0])
        assert modified.dtype == torch.float32
        torch.manual_seed(1)
        terms[precision] = game.update_recognizer(
            faces[0], modified, *faces[1:]
        ) | game.update_modifier_and_detector(faces[0], modified, *faces[1:], *frames)
        assert all(
            p.dtype == torch.float32
            for player in (game.recognizer, game.detector, game.anonymizer)
            for p in player.parameters()
        )
    assert set(seen) == {(torch.float32, torch.float32)}
    for name, value in terms["fp32"].items():
        # bf16 keeps 8 bits; A samples other regions when its proposals change places
        near = pytest.approx(value.item(), rel=0.5 if name == "L_det" else 0.1)
        assert terms["bf16"][name].item() == near, name
        assert terms["bf16"][name].item() != value.item(), name  # it was at work


def test_fp16_leaves_out_a_step_whose_gradients_run_over_and_halves_its_scale(tiny):
    config = tiny(precision="fp16")
    scaler = optim.make_scaler(config, "cpu")
    weight = nn.Parameter(torch.ones(1))
    optimizer = optim.adam([weight], 0.1, config)
    optim.backward_and_step(weight.sum(), [optimizer], scaler)
    assert weight.item() == pytest.approx(0.9)  # scaled up, and down again
    before = weight.item()
    scale = scaler.get_scale()
    optim.backward_and_step((weight * float("inf")).sum(), [optimizer], scaler)
    assert weight.item() == before and scaler.get_scale() == scale / 2
    again = optim.make_scaler(config, "cpu")
    again.load_state_dict(scaler.state_dict())
    assert again.get_scale() == scale / 2
    assert make_game(config).parts()["scaler"].is_enabled()  # it is in a game's checkpoint


def test_precision_decides_a_result_and_older_runs_were_plain(tiny, tmp_path):
    path = tmp_path / "config.json"
    # before there was the field
    path.write_text(presets.as_json(tiny(), "toy").replace('"precision": "fp32",', ""))
    tuned = tiny(channels_last=True, accumulate=2, checkpointing=True)
    assert presets.differences(tuned, "toy", path) == []
    assert presets.differences(tiny(precision="bf16"), "toy", path) == [
        "precision: None there, 'bf16' here"
    ]
    with pytest.raises(presets.ConfigError, match="precision is 'half': it must be"):
        tiny(precision="half")


# ------------------------------------------------------------------ layout and loops


def test_channels_last_gives_the_plain_gradients_and_names(tiny, faces):
    plain = make_game(tiny(landmark_jitter=0.0))
    tuned = make_game(tiny(landmark_jitter=0.0, channels_last=True))
    weight = next(tuned.recognizer.network.parameters())
    assert weight.is_contiguous(memory_format=torch.channels_last)
    gradients = []
    for game in (plain, tuned):
        gradients.append(watch_gradients(game))
        game.update_recognizer(faces[0], game.anonymize(faces[0]), *faces[1:])
    first, second = (one["recognizer"] for one in gradients)
    torch.testing.assert_close(second, first, rtol=1e-4, atol=1e-5)
    assert list(plain.recognizer.state_dict()) == list(tuned.recognizer.state_dict())


def test_fused_adam_takes_the_plain_step(tiny):
    moved = []
    for fused in (False, True):
        weight = nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
        config = tiny(fused=fused)
        optimizer = optim.adam([weight], 0.1, config, (0.5, 0.999))
        assert optimizer.param_groups[0]["fused"] is (True if fused else None)
        for _ in range(3):
            loss = weight.square().sum()
            optim.backward_and_step(loss, [optimizer], optim.make_scaler(config, "cpu"))
        moved.append(weight.detach())
    torch.testing.assert_close(*moved)
    assert moved[0][0] < 0.8


def test_gradients_are_cleared_and_cut_to_a_length(tiny):
    weight = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([weight], 1.0)
    scaler = optim.make_scaler(tiny(), "cpu")
    for expected in (-optim.MAX_NORM, -2 * optim.MAX_NORM):  # not more: the old gradient is gone
        optim.backward_and_step(1e3 * weight[0], [optimizer], scaler)
        assert weight[0].item() == pytest.approx(expected, rel=1e-4) and weight.grad is None


def test_a_step_whose_gradient_is_not_finite_is_skipped_and_said(tiny, capsys):
    scaler = optim.make_scaler(tiny(), "cpu")
    good, bad = (nn.Parameter(torch.ones(1)) for _ in range(2))
    optimizers = [torch.optim.SGD([one], 0.5) for one in (good, bad)]
    optim.backward_and_step(good.sum() + (bad - 1).sqrt().sum(), optimizers, scaler)  # slope inf
    assert (good.item(), bad.item()) == (0.5, 1.0)
    assert bad.grad is None
    assert "not finite: this step is skipped" in capsys.readouterr().err


def test_compiling_renames_nothing_and_a_copy_is_a_plain_network(tiny):
    plain = make_game(tiny())
    compiled = make_game(tiny(compile=True))
    for player in ("recognizer", "detector", "anonymizer"):
        names = list(getattr(plain, player).state_dict())
        assert names == list(getattr(compiled, player).state_dict())
    assert compiled.anonymizer._compiled_call_impl is not None
    assert plain.anonymizer._compiled_call_impl is None
    # The warm-up's game compiles its own.
    assert copy.deepcopy(compiled.recognizer).network._compiled_call_impl is None


# ------------------------------------------------------------------ two processes


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two folders: what one process trained, and what two did."""
    one = tmp_path_factory.mktemp("one")
    two = tmp_path_factory.mktemp("two")
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        ROOT / "tests/optim_child.py",
        two,
    ]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        optim_child.everything(one)
        output = process.communicate(timeout=300)[0]
    finally:
        process.kill()
    assert (two / "weights1.pt").exists(), output
    (two / "output.txt").write_text(f"{output}\nstatus {process.returncode}")
    return one, two


@needs_gloo
@pytest.mark.parametrize("what", ["D", "whole", "parts"])
def test_two_processes_train_what_one_does(trained, what):
    """Losses to 1e-4, weights to 1e-5 after up to seven updates in fp32: sums differ in order."""
    one, two = (read_log(folder / what / "log.jsonl") for folder in trained)
    assert [(line["stage"], line["step"]) for line in one] == [
        (line["stage"], line["step"]) for line in two
    ]
    assert {line["stage"] for line in one} == (
        {"train"} if what == "D" else {"copy", "warmup", "game", "finetune"}
    )
    for line, other in zip(one, two):
        where = line.pop("stage"), other.pop("stage")
        assert other == pytest.approx(line, rel=1e-4, abs=2e-5), where  # the log keeps five digits
    one, two = (read_checkpoint(folder / what / "checkpoint.pt") for folder in trained)
    assert one["done"] == two["done"]
    torch.manual_seed(0)
    config = presets.build("toy", **{**optim_child.TINY, **optim_child.PLAIN})
    start = optim_child.game(config)
    for player in ("recognizer",) if what == "D" else ("recognizer", "anonymizer", "detector"):
        before = getattr(start, player).state_dict()
        moved = 0.0
        part = "network" if what == "D" else player
        for name, weight in one["parts"][part].items():
            torch.testing.assert_close(
                two["parts"][part][name],
                weight,
                rtol=1e-4,
                atol=1e-5,
                msg=lambda text, name=f"{player}.{name}": f"{name}: {text}",
            )
            moved = max(moved, float((weight - before[name]).abs().max()))
        assert moved > 1e-3, player  # a hundred times the tolerance


@needs_gloo
def test_ctrl_c_at_one_process_stops_both_and_going_on_changes_no_bit(trained):
    """After a step that both have done; each goes on with its own random state."""
    _, two = trained
    assert {(two / f"stopped{number}.txt").read_text() for number in (0, 1)} == {
        "stopped at Ours game step 1; the same command continues from here"
    }
    unbroken, broken = (
        read_checkpoint(two / place / "checkpoint.pt") for place in ("unbroken", "broken")
    )
    assert len(broken["others"]) == 1 and not torch.equal(broken["rng"], broken["others"][0]["rng"])
    assert torch.equal(broken["rng"], unbroken["rng"]) and torch.equal(
        broken["others"][0]["rng"], unbroken["others"][0]["rng"]
    )
    for player in ("recognizer", "anonymizer", "detector"):
        for name, weight in unbroken["parts"][player].items():
            assert torch.equal(broken["parts"][player][name], weight), name
    assert (two / "random0.txt").read_text() != (two / "random1.txt").read_text()


@needs_gloo
def test_main_is_stopped_by_ctrl_c_goes_on_and_ends_with_results(trained, tiny_args):
    folder = trained[1] / "main"
    output = (trained[1] / "output.txt").read_text()
    assert [
        (trained[1] / f"{kind}{number}.txt").read_text()
        for kind in ("Pressed", "Loop")
        for number in (0, 1)
    ] == ["130", "130", "0", "0"]
    assert (
        output.count("ppad.reproduce: stopped at Ours game step 1; the same command continues") == 2
    )
    assert output.count("| Ours |") == 3  # one process prints the three tables
    assert output.count("Ours game 3/3") == 1
    results = read(folder / "results.json")
    assert results["hardware"]["processes"] == 2 and results["hardware"]["jobs"] == 1
    lines = [(line["stage"], line["step"]) for line in read_log(folder / "seed0/Ours/log.jsonl")]
    assert lines == [
        (stage, step)
        for stage, steps in (("copy", 2), ("warmup", 2), ("game", 3), ("finetune", 2))
        for step in range(1, steps + 1)
    ]
    assert not list(folder.rglob("*.part"))
    assert (
        run(*tiny_args, "--rows", "Ours", "--out", folder) == 0
    )  # and one process takes it as its own


@needs_gloo
def test_an_M_that_is_given_the_person_and_its_reader_are_the_same_in_both(trained):
    one, other = (torch.load(trained[1] / f"weights{number}.pt") for number in (0, 1))
    assert set(one) == {"M", "D", "reader"}
    for name, weights in one.items():
        for weight, same in zip(weights, other[name], strict=True):
            assert torch.equal(weight, same), name


@needs_gloo
def test_a_process_that_ends_early_ends_the_other(trained):
    """At last the main process fails while the other waits for it: torchrun says so and ends."""
    output = (trained[1] / "output.txt").read_text()
    assert "exitcode  : 3" in output and output.endswith("status 1")


# ------------------------------------------------------------------ refusals; alone


@pytest.fixture
def two(monkeypatch):
    """As torchrun leaves the environment, before the processes have met."""
    for name, value in {
        "TORCHELASTIC_RUN_ID": "x",
        "WORLD_SIZE": "2",
        "RANK": "1",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
    }.items():
        monkeypatch.setenv(name, value)


def test_what_two_processes_cannot_do_is_refused_before_they_wait(
    two, tiny, tiny_args, tmp_path, monkeypatch, capfd
):
    assert (optim.launched_processes(), optim.rank(), optim.world_size()) == (2, 1, 1)
    assert not optim.is_main_process()
    for fields, sentence in (
        (
            {"batch_frames": 3, "accumulate": 1},
            "batch_frames is 3: 2 processes share it, so 2 must divide it",
        ),
        (
            {"batch_faces": 6, "batch_frames": 4, "accumulate": 2},
            "batch_faces is 6: .* so 4 must divide it",
        ),
    ):
        with pytest.raises(ValueError, match=sentence):
            optim.init_distributed("cpu", tiny(**fields))
    with pytest.raises(ValueError, match="device is 'cuda:0': .*give --device cuda"):
        optim.init_distributed("cuda:0", tiny())
    assert run(*tiny_args, "--jobs", 2, "--out", tmp_path) == 2
    assert "--jobs is 2: it must be at least 1, and 1 under torchrun" in capfd.readouterr().err
    assert run(*tiny_args, "--check", "--out", tmp_path) == 2
    assert "give the command without torchrun" in capfd.readouterr().err


def test_a_gradient_is_the_mean_over_the_processes_and_none_counts_as_zeros(monkeypatch):
    """The other process's gradients are 3, 3, 3: what its all-reduce would add."""
    weights = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))]
    fixed = nn.Parameter(torch.zeros(1), requires_grad=False)
    weights[0].grad = torch.tensor([1.0, 5.0])
    sent = []

    def all_reduce(flat):
        sent.append(flat.clone())
        flat += 3

    monkeypatch.setattr(optim, "world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    optim.average_gradients([*weights, fixed])
    assert len(sent) == 1 and sent[0].tolist() == [1, 5, 0]  # once for all
    assert [weight.grad.tolist() for weight in weights] == [[2, 4], [1.5]] and fixed.grad is None


def test_alone_nothing_is_done(tiny):
    optim.init_distributed("cpu", presets.build("toy", batch_frames=7))
    table = torch.ones(2)
    assert optim.all_reduce_mean(table) is table
    assert optim.any_process(True, False) == (True, False)
    assert optim.all_gather(3) == [3] and optim.run_on_main(lambda: 5) == 5
    norm = nn.Sequential(nn.BatchNorm2d(2))
    optim.prepare(norm, tiny(), "cpu")
    assert type(norm[0]) is nn.BatchNorm2d and not torch.distributed.is_initialized()
    optim.shut_down()
