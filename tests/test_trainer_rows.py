"""A whole row: what its stages move and count, the order of its data, and stops in the middle."""

import pytest
import torch
from test_trainer import CLASSES, make_game, moved, snapshot

from ppad import trainer
from ppad.datasets import batches
from ppad.loop import Loop, read_checkpoint, read_log
from ppad.players import aligned_crops, make_detector


class PowerCut(Exception):
    pass


def play(config, folder, faces, actions, row="Ours", seed=0, cut_at=None):
    """One row in `folder`; `cut_at`: the call (from 1) of M's and A's update that loses power."""
    game = make_game(config, row, seed)
    update = game.update_modifier_and_detector
    calls = []

    def counted(*arguments):
        calls.append(1)
        if len(calls) == cut_at:
            raise PowerCut
        return update(*arguments)

    game.update_modifier_and_detector = counted
    trainer.play(game, faces, actions, config, Loop(folder, "row", 3, {}, config.log_every, 0))
    return game


def assert_equal(a, b, where="state"):
    """State dicts, nested, to the last bit."""
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b)):
            assert_equal(x, y, f"{where}[{i}]")
    else:
        assert a == b, where


@pytest.mark.parametrize("row", ["Ours", "Noise(0.1)"])
def test_a_row_cut_and_resumed_equals_an_unbroken_one(
    tiny, tiny_faces, tiny_actions, tmp_path, row
):
    config = tiny(T1=4, T2=2, recognizer_updates=2, landmark_jitter=1.0, color_jitter=0.1)
    unbroken = play(config, tmp_path / "a", tiny_faces, tiny_actions, row)
    with pytest.raises(PowerCut):
        play(
            config, tmp_path / "b", tiny_faces, tiny_actions, row, cut_at=3
        )  # D has already taken step 3
    resumed = play(
        config, tmp_path / "b", tiny_faces, tiny_actions, row, seed=99
    )  # other weights until loaded
    assert unbroken.parts().keys() == resumed.parts().keys()
    for name, part in unbroken.parts().items():
        if row == "Ours" or name != "anonymizer":
            assert_equal(part.state_dict(), resumed.parts()[name].state_dict(), name)
    logs = [
        [(line["stage"], line["step"]) for line in read_log(tmp_path / name / "log.jsonl")]
        for name in "ab"
    ]
    before = [("copy", 1), ("copy", 2), ("warmup", 1), ("warmup", 2)] if row == "Ours" else []
    assert (
        logs[0]
        == logs[1]
        == [*before, *(("game", n) for n in (1, 2, 3, 4)), ("finetune", 1), ("finetune", 2)]
    )
    if row != "Ours":
        assert unbroken.anonymizer.state_dict() == resumed.anonymizer.state_dict() != {"calls": 0}


def test_warmup_moves_M_and_leaves_the_games_D_and_A_alone(
    tiny, tiny_faces, tiny_actions, tmp_path
):
    """M's warm-up is against a copy of D: the game's D and A start as every other row's do."""
    config = tiny(pretrain_modifier_steps=0, warmup_steps=3, T1=0, T2=0, recognizer_updates=2)
    before = snapshot(make_game(config))
    game = play(config, tmp_path, tiny_faces, tiny_actions)
    assert set(moved(before, snapshot(game))) == {"M"}
    assert not any(optimizer.state for optimizer in game.optimizers.values())
    parts = read_checkpoint(tmp_path / "checkpoint.pt")["parts"]
    assert int(parts["warmup_recognizer"]["margin.step"]) == 3 * 2
    assert int(parts["recognizer"]["margin.step"]) == 0
    gap = {
        key
        for key, value in before["D"].items()
        if not torch.equal(value, parts["warmup_recognizer"][key])
    }
    assert (
        any(key.startswith("network.") for key in gap) and "head.weight" in gap
    )  # the copy did learn
    assert "warmup_detector" not in parts
    assert [line["stage"] for line in read_log(tmp_path / "log.jsonl")] == ["warmup"] * 3


def test_a_fixed_anonymizer_needs_no_warmup(tiny, tiny_faces, tiny_actions, tmp_path):
    play(tiny(T1=1, T2=0), tmp_path, tiny_faces, tiny_actions, "Masked")
    assert [line["stage"] for line in read_log(tmp_path / "log.jsonl")] == ["game"]
    assert not [
        name
        for name in read_checkpoint(tmp_path / "checkpoint.pt")["parts"]
        if name.startswith("warmup")
    ]


@pytest.mark.parametrize(
    "ours, cut, done",
    [
        ({}, "update_modifier", {"copy": 1, "warmup": 2}),
        (
            {"warmup_recognizers": 2, "warmup_restart": 2, "warmup_updates": 1},
            "update_modifier",
            {"copy": 1, "warmup": 2},
        ),
        ({"modifier_exchange": True, "exchange_steps": 4}, "copy_people", {"exchange": 2}),
    ],
)
def test_warmup_cut_and_resumed_equals_an_unbroken_one(
    tiny, tiny_faces, tiny_actions, tmp_path, monkeypatch, ours, cut, done
):
    """To the last bit, the copy of D, its optimizers and the order of pictures included."""
    config = tiny(
        pretrain_modifier_steps=1,
        warmup_steps=4,
        T1=2,
        T2=1,
        recognizer_updates=2,
        color_jitter=0.1,
        **ours,
    )
    play(config, tmp_path / "a", tiny_faces, tiny_actions)
    update = getattr(trainer.Game, cut)
    calls = []

    def counted(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise PowerCut  # the copy of D has already taken step 3
        return update(*arguments)

    with monkeypatch.context() as patch, pytest.raises(PowerCut):
        patch.setattr(trainer.Game, cut, counted)
        play(config, tmp_path / "b", tiny_faces, tiny_actions)
    assert read_checkpoint(tmp_path / "b/checkpoint.pt")["done"] == done
    play(config, tmp_path / "b", tiny_faces, tiny_actions, seed=99)
    unbroken, resumed = (read_checkpoint(tmp_path / name / "checkpoint.pt") for name in "ab")
    assert_equal(unbroken["parts"], resumed["parts"])
    assert_equal([unbroken["rng"], unbroken["done"]], [resumed["rng"], resumed["done"]])
    assert read_log(tmp_path / "a/log.jsonl") == read_log(tmp_path / "b/log.jsonl")


def test_warmup_meets_copies_of_D_in_turn_and_restarts_one_after_another(tiny, tmp_path):
    config = tiny(warmup_recognizers=2, warmup_restart=3)
    game = make_game(config)
    warmup = trainer.WarmUp(game)
    first, second = (recognizer for recognizer, _ in warmup.copies)
    met = []
    for step in range(1, 7):
        warmup.meet(step)
        met.append(warmup.recognizer)
        optimizer = warmup.optimizers["recognizer"]
        assert optimizer.param_groups[0]["params"][0] is next(warmup.recognizer.parameters())
        sum(p.sum() for p in warmup.recognizer.parameters()).backward()
        optimizer.step()
        warmup.recognizer.margin.advance()
        warmup.restart(step)
        fresh = [one for one, adam in warmup.copies if not adam.state]
        as_before = [
            one for one, _ in warmup.copies if same_state(one.state_dict(), game.recognizer)
        ]
        if step == 3:  # copy 1 of (0, 1)
            assert fresh == as_before == [second]
        if step == 6:
            assert fresh == as_before == [first]
    assert met == 3 * [second, first]
    named = warmup.parts()
    assert named["recognizer"] is first and named["recognizer_2"] is second
    assert named["recognizer_optimizer"] is not named["recognizer_2_optimizer"]


def same_state(state, module):
    return all(torch.equal(value, state[key]) for key, value in module.state_dict().items())


def test_D_learns_again_from_kept_outputs(tiny, tiny_faces, tiny_actions, tmp_path):
    config = tiny(warmup_steps=3, recognizer_updates=1, warmup_updates=2, T1=0, T2=0)
    play(config, tmp_path, tiny_faces, tiny_actions)
    parts = read_checkpoint(tmp_path / "checkpoint.pt")["parts"]
    assert int(parts["warmup_recognizer"]["margin.step"]) == 3 * (1 + 2)
    assert int(parts["warmup_kept"]["count"]) == 3 * config.warmup_faces


@pytest.mark.parametrize("fields", [{"modifier_exchange": True}, {"warmup_steps": 0}])
def test_where_no_warm_up_plays_no_copy_of_D_is_kept(
    fields, tiny, tiny_faces, tiny_actions, tmp_path
):
    config = tiny(**fields)
    assert play(config, tmp_path, tiny_faces, tiny_actions)
    parts = read_checkpoint(tmp_path / "checkpoint.pt")["parts"]
    assert "recognizer" in parts and "warmup_recognizer" not in parts


def test_the_exchanger_learns_in_half_precision_where_that_is_asked(tiny, tiny_faces):
    config = tiny(modifier_exchange=True, precision="bf16")
    game = make_game(config)
    game.exchange = trainer.Exchange(config, game.recognizer, tiny_faces)
    modifier, reader = game.anonymizer, game.exchange.reader
    made = {"encode": set(), "join": set(), "paint": set(), "locate": set(), "reader": set()}
    layers = [modifier.encode[0], modifier.join, modifier.paint[1], modifier.locate.body[0]]
    for name, layer in zip(made, [*layers, reader.net[0]]):
        layer.register_forward_hook(lambda *call, name=name: made[name].add(call[2].dtype))
    terms = game.copy_people(*tiny_faces.batch(torch.arange(0, 8)))
    assert set(map(tuple, made.values())) == {(torch.bfloat16,)}
    assert terms["L_copy"].dtype == torch.float32 and terms["L_copy"].isfinite()
    weights = [*modifier.parameters(), *reader.parameters()]
    assert all(weight.dtype == torch.float32 and weight.isfinite().all() for weight in weights)


def test_the_exchangers_terms_by_hand_and_who_moves(tiny, tiny_faces):
    config = tiny(modifier_exchange=True, code_weight=0.01, reader_weight=0.7, l1_weight=3.0)
    game = make_game(config)
    exchange = trainer.Exchange(config, game.recognizer, tiny_faces)
    pictures, landmarks, people = tiny_faces.batch(torch.arange(0, 12, 2))
    modifier = game.anonymizer
    modifier.NOISE = 0.0  # for this object alone
    modifier.SHIFT = 0.0
    modifier.ELLIPSE = (0.0, 0.0, 0.0)
    modifier.nats = lambda code: code.square().sum() / len(code)
    exchange.reader.eval()  # no dropout
    with torch.no_grad():
        code = modifier.encode(pictures)
        told = (code, landmarks, exchange.reader.people[people], torch.zeros(6, 3))
        copied = modifier.decode(pictures, *told)
        p = exchange.reader(code).softmax(1).gather(1, people[:, None])[:, 0]
        gap = copied - pictures
        miss = (modifier.locate(pictures) - landmarks).abs()  # px
        slopes = sum((gap.roll(-1, a) - gap).narrow(a, 0, 31).abs().mean() for a in (2, 3))
        wanted = (
            3 * gap.abs().mean()
            + 1.5 * slopes
            + 0.01 * code.square().sum() / 6
            + 0.7 * torch.where(p > 1 / 6, -(1 - p).log(), 0.0).mean()
            + torch.where(miss < 1, miss.square() / 2, miss - 0.5).mean()
        )
    before = snapshot(game)
    reader = {key: value.clone() for key, value in exchange.reader.state_dict().items()}
    value = exchange.objective(modifier, pictures, landmarks, people)
    torch.testing.assert_close(value, wanted)
    assert not moved(before, snapshot(game))
    value.backward()
    assert all(weight.grad is not None for weight in modifier.parameters())
    assert all(weight.grad is None for weight in exchange.reader.parameters())
    assert_equal(reader, exchange.reader.state_dict())
    exchange.update_reader(modifier, pictures, people, game.scaler)
    assert not moved(before, snapshot(game))
    after = exchange.reader.state_dict()
    changed = {key for key, old in reader.items() if not old.equal(after[key])}
    assert changed == reader.keys() - {"people"}


def test_mean_embeddings_are_each_persons_and_of_one_length_before_centering(tiny, tiny_faces):
    config = tiny()
    recognizer = make_game(config).recognizer
    means = trainer.mean_embeddings(recognizer, tiny_faces, config)
    assert means.mean(0).abs().max() < 1e-5 and means.std().item() == pytest.approx(1)
    pictures, landmarks, people = tiny_faces.batch(torch.arange(len(tiny_faces)))
    size = (config.recognizer_height, config.recognizer_breadth)
    with torch.no_grad():
        features = recognizer.eval()(aligned_crops(pictures, landmarks, size))
    units = features / features.norm(dim=1, keepdim=True)
    by_hand = torch.stack([units[people == n].sum(0) for n in range(6)])
    by_hand = by_hand / by_hand.norm(dim=1, keepdim=True)
    by_hand = by_hand - by_hand.mean(0)
    torch.testing.assert_close(means, by_hand / by_hand.std(), atol=1e-4, rtol=1e-4)


def test_an_exchanging_row_tells_M_who_they_are_and_trains_it(
    tiny, tiny_faces, tiny_actions, tmp_path
):
    config = tiny(modifier_exchange=True, T1=2, T2=1)
    before = snapshot(make_game(config))
    game = play(config, tmp_path, tiny_faces, tiny_actions)
    stages = [line["stage"] for line in read_log(tmp_path / "log.jsonl")]
    assert sorted(set(stages)) == ["exchange", "finetune", "game"]  # it copies no picture as it is
    assert {"M", "D", "A"} <= moved(before, snapshot(game)).keys()
    torch.testing.assert_close(game.anonymizer.others[:6], game.exchange.reader.people)
    assert game.anonymizer.others.abs().max() > 0


def test_samples_change_nothing(tiny, tiny_faces, tiny_actions, tmp_path):
    """`sample_every` is a field of the machine, also where M draws."""
    trained = []
    for every in (1, 100):
        config = tiny(modifier_exchange=True, sample_every=every)
        torch.manual_seed(0)
        game = play(config, tmp_path / str(every), tiny_faces, tiny_actions)
        trained.append(game.anonymizer.state_dict())
        assert any((tmp_path / str(every)).glob("sample_*.png")) == (every == 1)
    assert_equal(*trained)


def test_every_row_sees_the_same_data_in_the_same_order(tiny, tiny_faces, tiny_actions, tmp_path):
    config = tiny(T1=3, T2=2)
    seen = {"Ours": [], "Masked": []}
    for row, order in seen.items():
        torch.manual_seed(len(row))
        game = make_game(config, row)
        for name in ("update_recognizer", "update_modifier_and_detector", "finetune_detector"):

            def noted(*arguments, name=name, update=getattr(game, name), order=order):
                first = len(order)
                order.append((name, arguments[0], arguments[-3]))
                terms = update(*arguments)
                del order[first + 1 :]  # what an update calls is its own affair
                return terms

            setattr(game, name, noted)
        trainer.play(game, tiny_faces, tiny_actions, config, Loop(tmp_path / row, row, 3, {}))
    assert len(seen["Masked"]) == 3 * (config.recognizer_updates + 1) + 2
    assert len(seen["Masked"]) == len(seen["Ours"])
    for (name, faces, frames), (other, other_faces, other_frames) in zip(*seen.values()):
        assert name == other and torch.equal(faces, other_faces)
        if name != "update_recognizer":  # there it is f', which differs
            assert torch.equal(frames, other_frames)


def test_the_game_counts_its_updates(tiny, tiny_faces, tiny_actions, tmp_path):
    """T1 steps of `recognizer_updates` updates of D and one of M and A, then T2 of A alone."""
    config = tiny(T1=4, T2=2, recognizer_updates=3, sample_every=2)
    game = play(config, tmp_path, tiny_faces, tiny_actions)
    steps = {
        name: int(next(iter(optimizer.state.values()))["step"])
        for name, optimizer in game.optimizers.items()
    }
    # The warm-up has optimizers of its own.
    assert steps == {"recognizer": 4 * 3, "detector": 4 + 2, "modifier": 4}
    assert int(game.recognizer.margin.step) == 12
    assert sorted(p.name for p in tmp_path.glob("sample_*.png")) == [
        "sample_game_000002.png",
        "sample_game_000004.png",
        "sample_warmup_000002.png",
    ]


def test_M_and_D_are_frozen_in_the_finetune_stage(tiny, tiny_faces, tiny_actions, tmp_path):
    short = play(tiny(T1=2, T2=0), tmp_path / "a", tiny_faces, tiny_actions)
    longer = play(tiny(T1=2, T2=2), tmp_path / "b", tiny_faces, tiny_actions)
    assert set(moved(snapshot(short), snapshot(longer))) == {"A"}


def test_pretrain_detector_moves_A_on_original_frames_and_resumes(tiny, tiny_actions, tmp_path):
    config = tiny(pretrain_detector_steps=4)

    def train(folder, seed, cut_at=None):
        torch.manual_seed(seed)
        detector = make_detector(config, CLASSES)
        seen = []
        learn = detector.losses

        def spy(frames, targets):
            seen.append(frames)
            if len(seen) == cut_at:
                raise PowerCut
            return learn(frames, targets)

        detector.losses = spy
        trainer.pretrain_detector(detector, tiny_actions, config, Loop(folder, "A", 3, {}, 1, 0))
        return detector, seen

    unbroken, seen = train(tmp_path / "a", 0)
    with pytest.raises(PowerCut):
        train(tmp_path / "b", 0, cut_at=3)
    resumed, _ = train(tmp_path / "b", 99)
    assert_equal(unbroken.state_dict(), resumed.state_dict())
    assert not unbroken.training
    frames, _, _ = next(batches(tiny_actions, config.batch_frames, seed=3))
    assert torch.equal(seen[0], frames)  # nothing cut out and pasted back
