"""Presets: the paper's numbers are the paper's, every value has a source, wrong ones are named."""

import argparse
import dataclasses
import inspect
import json
import math
import re

import pytest

from ppad import config as presets
from ppad import detector
from ppad.files import DataError

NAMES = [field.name for field in dataclasses.fields(presets.Paper)]


# ------------------------------------------------------------------ where numbers come from


SOURCE = re.compile(r"\b(Sec\. \d|eq\. \d|Algorithm 1|SphereFace|LFW|ours)\b")


def test_every_field_names_its_source_and_has_a_line_of_help():
    for field in dataclasses.fields(presets.Paper):
        assert SOURCE.search(field.metadata["source"]), field.name
        assert 0 < len(field.metadata["help"]) < 80 and "\n" not in field.metadata["help"]


@pytest.mark.parametrize("preset", ["SMALL", "PHOTO", "PHOTO_CPU", "TOY", "QUICK"])
def test_every_value_of_the_smaller_presets_names_its_source(preset):
    source = inspect.getsource(presets)
    (replaced,) = re.findall(rf"^{preset} = replace\(\n    .*,\n((?:    .*\n)*)\)$", source, re.M)
    assert replaced.count("\n") > 15
    for line in replaced.splitlines():
        assert SOURCE.search(line.partition("  # ")[2]), line


def test_paper_preset_is_the_paper():
    """Sec. 4, Sec. 5 and SphereFace's public training file, by hand from the texts."""
    paper = presets.build("paper")
    assert (paper.adam_beta1, paper.adam_beta2) == (0.5, 0.999)
    assert (paper.lr_detector, paper.lr_modifier, paper.lr_recognizer) == (1e-3, 3e-4, 3e-4)
    assert paper.lr_drop_at == 7 / 12
    assert (
        paper.face_size,
        paper.modifier_blocks,
        paper.modifier_width,
        paper.modifier_upsample,
    ) == (256, 9, 64, "transposed")
    assert (paper.recognizer_depth, paper.recognizer_width, paper.embedding) == (20, 64, 512)
    assert (paper.recognizer_height, paper.recognizer_breadth, paper.margin) == (112, 96, 4)
    assert (paper.lambda_base, paper.lambda_gamma, paper.lambda_floor) == (1000, 0.12, 5)
    assert paper.detector_body == "resnet101_c4"
    assert (paper.epochs, paper.epochs * paper.lr_drop_at) == (12, 7)
    assert (paper.adversarial_cap, paper.adversarial_margin) == (math.inf, True)
    assert (paper.frame_height, paper.frame_width) == (600, 800)
    assert (paper.recognizer_updates, paper.adversarial_weight, paper.detection_weight) == (1, 1, 1)
    assert (paper.adversarial_target, paper.folds, paper.drawn) == ("ascent", 10, False)


@pytest.mark.parametrize("name", presets.PRESETS)
def test_smaller_presets_keep_the_papers_game(name):
    """What makes it the paper's method is not a matter of size."""
    small = presets.build(name)
    paper = presets.build("paper")
    for field in (
        "adam_beta1",
        "adam_beta2",
        "lr_drop_at",
        "margin",
        "lambda_floor",
        "adversarial_target",
    ):
        assert getattr(small, field) == getattr(paper, field)


def test_quick_is_the_toy_preset_and_nowhere_larger():
    """The same world and networks; no size and no number is larger, only rates and weights are."""
    quick = presets.build("quick")
    toy = presets.build("toy")
    for name in NAMES:
        if getattr(quick, name) == getattr(toy, name):
            continue
        if name in ("lambda_gamma", "lr_detector", "l1_weight"):
            assert getattr(quick, name) > getattr(toy, name), name
        else:
            assert 0 < getattr(quick, name) < getattr(toy, name), name
    step = quick.pretrain_recognizer_steps / 2
    assert quick.lambda_base / (1 + quick.lambda_gamma * step) <= quick.lambda_floor
    assert quick.face_size == toy.face_size  # a row of one's own that fits one fits both


def test_presets_have_one_set_of_fields():
    for preset in presets.PRESETS.values():
        assert [field.name for field in dataclasses.fields(preset)] == NAMES
    assert set(presets.MACHINE) < set(NAMES)


# ------------------------------------------------------------------ setting fields


def parsed(*words):
    parser = argparse.ArgumentParser()
    presets.add_fields(parser)
    return vars(parser.parse_args(words))


def test_every_field_can_be_set_on_the_command_line():
    assert set(parsed()) == set(NAMES) and set(parsed().values()) == {None}
    for field in dataclasses.fields(presets.Paper):
        text = {bool: "true", int: "3", float: "0.5", str: "word"}[type(field.default)]
        value = parsed(f"--{field.name}", text)[field.name]
        assert value == {bool: True, int: 3, float: 0.5, str: "word"}[type(field.default)] and type(
            value
        ) is type(field.default)
    assert parsed("--drawn", "False")["drawn"] is False


def test_help_shows_every_field_with_its_line(capsys):
    with pytest.raises(SystemExit):
        parsed("--help")
    shown = " ".join(capsys.readouterr().out.split())
    for field in dataclasses.fields(presets.Paper):
        assert f"--{field.name} " in shown
        assert field.metadata["help"] in shown
    assert "steps of the game; 0 = as many as `epochs` take (paper: 0)" in shown
    assert "passes of the game through the action frames (paper: 12)" in shown
    assert "(paper: inf)" in shown


@pytest.mark.parametrize(
    "words",
    [("--T1", "many"), ("--T1", "1.5"), ("--drawn", "maybe"), ("--nosuch", "1"), ("--l1_weight",)],
)
def test_wrong_command_line_values_exit_2(words, capsys):
    with pytest.raises(SystemExit) as stop:
        parsed(*words)
    assert stop.value.code == 2 and words[0] in capsys.readouterr().err


def test_photographs_bring_their_own_pairs():
    """test_pairs counts drawn pairs: 0, all of the pairs file, is wrong for the toy world."""
    assert presets.build("photo").test_pairs == 0
    assert presets.build("toy", folds=10, test_pairs=20).test_pairs == 20
    with pytest.raises(presets.ConfigError, match="test_pairs is 0"):
        presets.build("toy", test_pairs=0)


def test_the_papers_game_has_no_warmup_no_color_matching_and_no_fixed_length():
    paper = presets.build("paper")
    assert (
        paper.warmup_steps,
        paper.pretrain_modifier_steps,
        paper.modifier_match_color,
        paper.recognizer_scale,
    ) == (0, 0, False, 0)


def test_build_overrides_and_leaves_none_alone():
    config = presets.build("toy", T1=7, T2=None, l1_weight=0.0)
    assert (config.T1, config.T2, config.l1_weight) == (7, presets.TOY.T2, 0.0)
    assert presets.build("toy").T1 == presets.TOY.T1  # the preset itself is untouched


def test_as_many_pairs_as_there_are_can_be_asked_for():
    presets.build("toy", test_pairs=7219)  # 10 folds of 360 each, which leaves out the last 19


@pytest.mark.parametrize(
    "preset, fields, sentence",
    [
        ("tiny", {}, "preset 'tiny' is unknown: choose one of quick, toy, photo, photo_cpu, paper"),
        ("toy", {"epoch": 3}, "field 'epoch' is unknown"),
        ("toy", {"batch_faces": 0}, "batch_faces is 0: it must be at least 1"),
        ("toy", {"recognizer_updates": 0}, "recognizer_updates is 0"),
        ("toy", {"log_every": 0}, "log_every is 0"),
        ("toy", {"T1": -1}, "T1 is -1: it must be at least 0"),
        ("toy", {"lr_modifier": -1e-4}, "lr_modifier is -0.0001"),
        ("toy", {"l1_weight": float("nan")}, "l1_weight is nan"),
        ("toy", {"precision": "half"}, "precision is 'half': it must be 'fp32' or 'bf16' or"),
        ("toy", {"face_size": 66}, "face_size is 66: M and .* halve it.*multiple of 8"),
        (
            "toy",
            {"adversarial_target": "descent"},
            "adversarial_target is 'descent': it must be 'ascent' or 'random'",
        ),
        ("toy", {"face_size": 8}, "face_size is 8: it must be at least 16"),
        ("paper", {"face_scale": 0.0}, "face_scale is 0.0: it must be at least 1e-06"),
        (
            "paper",
            {"face_scale": math.inf},
            "face_scale is inf: it must be at most 1,000,000,000",
        ),
        (
            "toy",
            {"lr_modifier": math.inf},
            "lr_modifier is inf: it must be at most 1,000,000,000",
        ),
        ("toy", {"adam_beta1": 1.5}, "adam_beta1 is 1.5: it must be at most 0.9999"),
        ("toy", {"adam_beta2": 1.0}, "adam_beta2 is 1.0: it must be at most 0.9999"),
        ("toy", {"lr_drop_at": 2.0}, "lr_drop_at is 2.0: it must be at most 1"),
        ("toy", {"margin": 7}, "margin is 7: it must be 1 or 2 or 3 or 4"),
        ("toy", {"recognizer_depth": 5}, "recognizer_depth is 5: it must be 4 or 10 or 20"),
        (
            "toy",
            {"modifier_upsample": "foo"},
            "modifier_upsample is 'foo': it must be 'transposed'",
        ),
        ("toy", {"folds": 1}, "folds is 1: it must be at least 2"),
        ("toy", {"face_scale": 2.0}, "face_scale is 2.0: .*must be 1.6"),
        ("toy", {"face_size": 68}, "face_size is 68"),  # a multiple of 4 alone will not do
        (
            "toy",
            {"folds": 10, "test_pairs": 19},
            "test_pairs is 19: each of the 10 folds needs a pair of each kind",
        ),
        (
            "toy",
            {"test_identities": 1},
            "test_pairs is 2000: half are .* only 45 of one exist: give more test_identities",
        ),
        ("toy", {"test_pictures_each": 1}, "test_pairs is 2000: .* only 0 of one exist"),
        ("toy", {"test_pairs": 7220}, "test_pairs is 7220: .* only 3600 of one exist"),
        ("toy", {"frame_height": 8, "frame_width": 8}, "frame_height is 8: it must be at least 16"),
        ("paper", {"recognizer_breadth": 7}, "recognizer_breadth is 7: it must be at least 8"),
        ("toy", {"warmup_steps": -1}, "warmup_steps is -1: it must be at least 0"),
        ("toy", {"recognizer_scale": -16.0}, "recognizer_scale is -16.0: it must be at least 0"),
        ("toy", {"adversarial_weight": float("nan")}, "adversarial_weight is nan"),
        ("toy", {"recognizer_height": 0}, "recognizer_height is 0: it must be at least 8"),
        ("toy", {"other_width": 0}, "other_width is 0"),
        ("toy", {"invert_steps": 0}, "invert_steps is 0: it must be at least 1"),
        ("paper", {"pretrain_detector_steps": 0}, "pretrain_detector_steps is 0"),
        ("toy", {"adversarial_cap": 0.0}, "adversarial_cap is 0.0: it must be at least 1e-06"),
        ("toy", {"train_frames": 0}, "train_frames is 0: it must be at least 1"),
        ("toy", {"test_identities": 0}, "test_identities is 0"),
        ("toy", {"frame_height": 320}, "frame_width is 160: drawn frames are square: give it 320"),
    ],
)
def test_wrong_settings_are_named(preset, fields, sentence):
    with pytest.raises(presets.ConfigError, match=sentence):
        presets.build(preset, **fields)


def test_what_is_unlimited_comes_back_from_a_file_as_a_number():
    fields = presets.as_fields(presets.build("paper", memory_gb=math.inf))
    assert fields["memory_gb"] == fields["adversarial_cap"] == "inf"
    again = presets.Paper(**fields)
    assert again.memory_gb == again.adversarial_cap == math.inf


def test_nobody_to_tell_apart_is_refused():
    counts = {"train_people": 1, "train_faces": 100, "train_frames": 100}
    with pytest.raises(presets.ConfigError, match="one person to train on"):
        presets.check_counts(presets.build("toy"), counts)


def test_bodies_are_the_detectors():
    assert presets.CHOICES["detector_body"] == detector.BODIES
    with pytest.raises(
        presets.ConfigError, match="detector_body is 'foo': it must be 'resnet101_c4'"
    ):
        presets.build("toy", detector_body="foo")


# ------------------------------------------------------------------ epochs


@pytest.mark.parametrize(
    "fields, frames, steps",
    [
        ({}, 22_000, 132_000),  # 12 epochs of 11,000 batches of two
        ({}, 5, 24),  # an epoch leaves out its incomplete batch
        ({"batch_frames": 4}, 22_000, 66_000),
        ({"epochs": 3}, 10, 15),
        ({"T1": 7}, 22_000, 7),
    ],
)
def test_T1_comes_from_the_frames_that_are_there(fields, frames, steps):
    config = presets.build("paper", **fields)
    counted = presets.with_steps(config, frames)
    assert counted.T1 == steps
    assert counted == dataclasses.replace(config, T1=steps)
    assert presets.with_steps(counted, frames) == counted
    # rates drop in the step after the seventh of twelve epochs
    assert counted.lr_drop_at * steps == pytest.approx(7 * steps / 12)


def test_the_small_presets_say_T1_themselves():
    for preset in ("quick", "toy", "photo", "photo_cpu"):
        config = presets.build(preset)
        assert config.T1 > 0 and presets.with_steps(config, 999) == config
        assert presets.with_steps(presets.build(preset, T1=0), 999).T1 == 0


# ------------------------------------------------------------------ config.json


def test_config_file_is_complete_and_compares(tmp_path):
    path = tmp_path / "config.json"
    config = presets.build("toy", T1=7)
    path.write_text(presets.as_json(config, "toy"))
    assert json.loads(path.read_text()) == {"preset": "toy", **dataclasses.asdict(config)}
    assert presets.differences(config, "toy", path) == []
    assert presets.differences(presets.build("toy", T1=8, l1_weight=1.0), "toy", path) == [
        "T1: 7 there, 8 here",
        f"l1_weight: {presets.TOY.l1_weight} there, 1.0 here",
    ]
    assert "preset: 'toy' there, 'photo' here" in presets.differences(
        presets.build("photo"), "photo", path
    )


def test_an_infinite_cap_is_kept_as_json_knows_it_and_read_again(tmp_path):
    """Python would write `Infinity`, which no other reader of JSON takes."""
    path = tmp_path / "config.json"
    config = presets.build("paper")
    path.write_text(presets.as_json(config, "paper"))

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    fields = json.loads(path.read_text(), parse_constant=refuse)
    assert fields.pop("preset") == "paper" and fields["adversarial_cap"] == "inf"
    assert presets.Paper(**fields) == config  # as notebooks read it
    assert presets.differences(config, "paper", path) == []
    assert presets.differences(presets.build("paper", adversarial_cap=1.0), "paper", path) == [
        "adversarial_cap: 'inf' there, 1.0 here"
    ]
    assert parsed("--adversarial_cap", "inf")["adversarial_cap"] == math.inf


def test_fields_of_the_machine_may_differ(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(presets.as_json(presets.build("toy"), "toy"))
    other = presets.build(
        "toy", device="cpu", log_every=1, sample_every=1, checkpoint_seconds=0, eval_batch=3
    )
    assert presets.differences(other, "toy", path) == []


@pytest.mark.parametrize("text", ["", "{", "[1]", "7"])
def test_a_broken_config_file_is_named(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(DataError, match="config.json cannot be read .*restore it"):
        presets.differences(presets.build("toy"), "toy", path)


@pytest.mark.parametrize("field", ["faces", "actions"])
def test_folders_beside_drawn_data_are_refused(field):
    """Else somebody's photographs would be left out, and an hour later drawn faces shown."""
    with pytest.raises(presets.ConfigError, match=f"{field} is given, but preset 'toy' draws"):
        presets.from_flags("toy", {field: "data/mine"})
    assert presets.from_flags("photo_cpu", {field: "data/mine"}).drawn is False
    assert presets.from_flags("toy", {field: "mine", "drawn": False}).drawn is False
