"""`--check`: its counts and predictions by hand; all that it refuses, in one sentence."""

import dataclasses
import math

import pytest
import torch
from test_reproduce import run
from torch import nn

from ppad import checkup, evaluate, loop, optim, players, trainer
from ppad import config as presets
from ppad.files import DataError


@pytest.fixture
def small(monkeypatch):
    """Sizes of the big presets are computed once, in the test for it; here they are a number."""
    monkeypatch.setattr(
        evaluate,
        "needs",
        lambda config, *_, **__: {"training": 0.01 * config.batch_faces, "disk": 0.01},
    )


# ------------------------------------------------------------------ data


def test_counts_of_prepared_folders(photo_config, photos):
    (photos / "faces/train/P0/notes.txt").write_text("no picture")
    counts = evaluate.count_data(photo_config)
    assert counts == {
        "train_faces": 12,
        "train_people": 4,
        "test_faces": 12,
        "pairs": 8,
        "train_frames": 6,
        "test_frames": 4,
        "classes": 2,
    }
    fewer = evaluate.count_data(
        dataclasses.replace(photo_config, train_identities=3, pictures_each=2, train_frames=5)
    )
    assert (fewer["train_faces"], fewer["train_people"], fewer["train_frames"]) == (6, 3, 5)
    assert checkup.picture_memory(photo_config, counts) == pytest.approx(
        (24 * 3 * 32 * 32 + 10 * 3 * 96 * 96) / 2**30
    )
    less = dataclasses.replace(photo_config, memory_gb=1e-4)  # the others stay in their files
    assert checkup.picture_memory(less, counts) == 1e-4


def test_counts_of_the_drawn_world(tiny):
    counts = evaluate.count_data(tiny())
    names = ("train_faces", "train_people", "test_faces", "pairs")
    assert [counts[name] for name in names] == [24, 6, 24, 16]


def test_missing_and_broken_tables_are_named(photo_config, photos):
    table = photos / "actions/faces.csv"
    whole = table.read_text()
    table.write_text("file,x\n")
    with pytest.raises(DataError, match="faces.csv"):
        evaluate.count_data(photo_config)
    table.write_text(whole)
    (photos / "actions/annotations.csv").write_text("file,split\n")
    with pytest.raises(DataError, match="annotations.csv"):
        evaluate.count_data(photo_config)
    (photos / "actions/annotations.csv").unlink()
    (photos / "faces/pairs_test.txt").unlink()
    with pytest.raises(
        DataError,
        match=r"pairs_test\.txt, .*annotations\.csv not there: give --faces and --actions",
    ):
        evaluate.count_data(photo_config)


@pytest.mark.parametrize(
    "table, split", [("actions/annotations.csv", "actions"), ("faces/landmarks.csv", "faces/test")]
)
def test_a_listed_test_picture_that_is_not_there_is_named(photo_config, photos, table, split):
    """The run refuses it as well."""
    path = max((photos / split).rglob("*.*g"))
    path.unlink()
    name = path.relative_to(photos / split).as_posix()
    with pytest.raises(DataError, match=f"1 test pictures, such as {name}, are not there: restore"):
        evaluate.count_data(photo_config)


# ------------------------------------------------------------------ needs


def test_kept_bytes_by_hand():
    """A convolution keeps its input, a ReLU its output; weights are not counted again."""
    with torch.device("meta"):
        network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
    assert optim.kept_bytes(network, 2, 3, 10, 10) == 4 * 2 * (3 + 8) * 100


def test_needs_of_a_run_by_hand(tiny):
    config = tiny()
    networks = (
        players.make_modifier(config),
        players.make_recognizer(config, 6),
        players.make_detector(config, 10),
    )
    m, d, a = (sum(p.numel() for p in one.parameters()) for one in networks)
    need = evaluate.needs(config, 6, 10, rows=3)
    # D, its partner, the attacker
    assert need["disk"] * 2**30 == pytest.approx(3 * 2 * 12 * (m + a + 3 * d))
    weights = 16 * (m + a + 2 * d) / 2**30
    twice = dataclasses.replace(config, batch_faces=8, batch_frames=4, pretrain_recognizer_batch=8)
    assert need["training"] > weights
    assert evaluate.needs(twice, 6, 10)["training"] - weights == pytest.approx(
        2 * (need["training"] - weights), rel=1e-2
    )
    parted = dataclasses.replace(twice, accumulate=2, pretrain_recognizer_batch=4)
    # one part at a time
    assert evaluate.needs(parted, 6, 10)["training"] == pytest.approx(need["training"], rel=1e-9)
    assert (
        evaluate.needs(dataclasses.replace(config, checkpointing=True), 6, 10)["training"]
        < need["training"]
    )


def test_what_the_paper_preset_keeps_is_in_the_order_of_ten_gib():
    """100 million weights x 16 bytes: 1.5 GiB. M's blocks and ends, 18 faces: 5 to 7."""
    assert 7 < evaluate.needs(presets.build("paper"), 10572, 10)["training"] < 14


def test_the_regions_of_A_count_too(tiny):
    """A C4 runs layer4 on 128 regions of each frame: by far the most that its head keeps."""
    config = tiny(detector_body="resnet101_c4", frame_height=64, frame_width=64)
    one = evaluate.needs(config, 6, 10)["training"]
    two = evaluate.needs(dataclasses.replace(config, batch_frames=3), 6, 10)["training"]
    # a bottleneck's maps of 14x14 and 7x7, of some thousand channels each, in fp32
    assert 0.3 < two - one < 1.5


def test_weights_files_are_not_read_for_it(tiny):
    files = {"detector_weights": "nowhere.pth", "recognizer_weights": "nowhere.pth"}
    config = tiny(detector_body="mobilenet_v2")
    assert evaluate.needs(dataclasses.replace(config, **files), 6, 10) == evaluate.needs(
        config, 6, 10
    )


# ------------------------------------------------------------------ the dry run


def test_minutes_are_the_median_of_five_steps_times_all_steps(monkeypatch):
    times = iter([0, 100, 200, 203, 300, 301, 400, 404, 500, 502])  # 100, 3, 1, 4 and 2 seconds
    monkeypatch.setattr(loop.time, "monotonic", lambda: next(times))
    trial = loop.TrialLoop("title")
    assert list(trial.steps("game", 80)) == [1]  # 100 seconds are too many to go on
    assert trial.minutes == 80 * 100 / 60
    assert list(trial.steps("game", 4)) == [1, 2, 3, 4]  # there are no more
    assert trial.minutes == 80 * 100 / 60 + 4 * 2.5 / 60
    times = iter([0, 9, 10, 12, 20, 21, 30, 33, 40, 44])
    assert len(list(trial.steps("finetune", 600))) == loop.TRIAL_STEPS
    assert trial.minutes == pytest.approx(80 * 100 / 60 + 4 * 2.5 / 60 + 600 * 3 / 60)


def test_flop_are_those_of_all_steps_counted_by_torch(capsys):
    """A convolution by hand: 2 FLOP a product, once forward, twice backward; five steps are run."""
    network = nn.Conv2d(8, 16, 3, padding=1)
    pictures = torch.rand(2, 8, 10, 10, requires_grad=True)
    trial = loop.TrialLoop("title")
    for _ in trial.steps("game", 80):
        network(pictures).sum().backward()
    once = 2 * 2 * 100 * 16 * 8 * 9
    assert trial.flop == 80 * 3 * once
    for _ in trial.steps("judge", 7):
        with torch.no_grad():
            network(pictures)
    assert trial.flop == 80 * 3 * once + 7 * once
    assert "title  game          80 steps, " in capsys.readouterr().out


def test_a_device_is_measured(tiny):
    """Two cores reach some GFLOP a second; a wrong unit would be off by thousands."""
    assert 1e8 < optim.measured_speed(tiny(), "cpu") < 1e13


# what a tiny data set holds
COUNTS = {"train_people": 6, "classes": 10, "train_faces": 8, "test_faces": 4, "test_frames": 3}
UPDATES = (
    "update_recognizer",
    "update_modifier",
    "update_modifier_and_detector",
    "finetune_detector",
)


def test_dry_run_trains_everything_for_a_few_steps(tiny, monkeypatch, capsys):
    calls = []
    for name in UPDATES:

        def counted(self, *given, name=name, real=getattr(trainer.Game, name)):
            calls.append(name)
            return real(self, *given)

        monkeypatch.setattr(trainer.Game, name, counted)
    many = dict.fromkeys(("T1", "T2", "warmup_steps", "pretrain_detector_steps"), 50)
    config = tiny(**many, recognizer_updates=2)
    trials = checkup.dry_run(config, COUNTS, "cpu", ["Masked", "Edge", "Ours", "Ours(random)"])
    # D: in two warm-ups and three games; a game with a fixed anonymizer updates A alone
    assert [calls.count(name) for name in UPDATES] == [2 * 5 * 5, 2 * 5, 3 * 5, 5 * 5]
    assert set(trials) == {"start", "fixed", "Ours", "Ours(random)"}
    assert min(trial.minutes for trial in trials.values()) > 0
    # M is convolutions; the mask is none
    assert trials["Ours"].flop > trials["fixed"].flop > 0 and trials["start"].flop > 0
    printed = capsys.readouterr().out
    for stage in (
        "start  train",
        "start  detector",
        "Ours   copy",
        "Ours   warmup",
        "Ours   game",
        "fixed  detect         2 steps",  # three frames, two at a time
        "fixed  repaint        5 steps",  # 8 faces, their mirror images and 4 more, 4 at a time
    ):
        assert stage in printed, stage
    calls.clear()
    monkeypatch.setattr(loop, "TRIAL_SECONDS", 0)
    checkup.dry_run(tiny(**many, accumulate=2), COUNTS, "cpu", ["Ours"])
    assert [calls.count(name) for name in UPDATES] == [4, 1, 1, 2]  # too slow: one step of each


def test_the_dry_run_repaints_what_an_attacker_would(tiny, capsys, monkeypatch):
    """For an M that draws, the attacker calls it at each step, and only test faces are kept."""
    calls = []
    forward = players.Exchanger.forward
    monkeypatch.setattr(
        players.Exchanger, "forward", lambda *given: calls.append(1) or forward(*given)
    )
    config = tiny(modifier_exchange=True, T1=0, attack_steps=50, invert_steps=1)
    checkup.dry_run(config, COUNTS, "cpu", ["Ours"])
    printed = capsys.readouterr().out
    assert "Ours   repaint        1 steps" in printed  # 4 faces, 4 at a time
    # attacker, inverter, repaint, frames of A alone
    assert len(calls) == loop.TRIAL_STEPS + 1 + 1 + config.T2


def test_the_dry_run_takes_every_row_with_its_own_fields(tiny, capsys, monkeypatch):
    monkeypatch.setattr(loop, "TRIAL_SECONDS", 0)
    config = tiny(modifier_exchange=True)
    checkup.dry_run(config, COUNTS, "cpu", ["Ours", "Ours(ascent)"])
    stages = {tuple(line.split()[:2]) for line in capsys.readouterr().out.splitlines()}
    assert {("Ours", "exchange"), ("Ours(ascent)", "warmup")} <= stages
    assert not {("Ours", "warmup"), ("Ours(ascent)", "exchange")} & stages


@pytest.mark.parametrize("exchange", [False, True])
def test_fewer_people_than_a_batch_has_faces_can_be_checked(tiny, monkeypatch, exchange):
    monkeypatch.setattr(loop, "TRIAL_SECONDS", 0)
    config = tiny(pretrain_recognizer_batch=9, modifier_exchange=exchange)
    trials = checkup.dry_run(config, {**COUNTS, "train_people": 3}, "cpu", ["Ours"])
    assert set(trials) == {"start", "Ours"}


# ------------------------------------------------------------------ the whole check


def test_check_of_a_preset_that_can_run(tiny_args, tmp_path, capsys):
    assert run("--check", *tiny_args, "--out", tmp_path / "run", "--rows", "Masked", "Ours") == 0
    said = capsys.readouterr().out
    assert not list(tmp_path.iterdir())  # nothing is written
    for part in (
        f"torch {torch.__version__}",
        "GiB free for",
        "24 faces of 6 people",
        "Ours   game",
        "for 2 row(s), 1 seed(s), 1 at a time",
        " hours) for",
        "GFLOP each",
        " FLOP, at ",
        "GFLOP a second that this device reaches in a large matrix product",
        "Nothing is missing.",
    ):
        assert part in said, part


@pytest.fixture
def check(tiny_args, tmp_path, capsys, small):
    """check(words) -> status, what was printed, and the sentence at the end."""

    def call(*words):
        status = run("--check", *tiny_args, "--rows", "Ours", "--out", tmp_path / "run", *words)
        said = capsys.readouterr()
        return status, said.out, said.err

    return call


def test_under_torchrun_it_is_refused(check, monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_torchelastic_launched", lambda: True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    status, _, sentence = check()
    assert status == 2 and "give the command without torchrun" in sentence


def test_missing_data_and_weights_are_told_in_one_sentence_after_all_has_been_printed(
    check, tmp_path
):
    status, out, sentence = check(
        "--preset",
        "photo",
        "--detector_body",
        "toy",
        "--faces",
        tmp_path / "f",
        "--actions",
        tmp_path / "a",
        "--detector_weights",
        tmp_path / "w.pth",
        "--recognizer_weights",
        tmp_path / "sphere20.pth",
    )
    assert (
        status == 2
        and sentence.count("\n") == 1
        and sentence.startswith("ppad.reproduce: photo cannot run here as it is: ")
    )
    for part in (
        "train, ",
        "faces.csv not there",
        "w.pth is not there",
        "sphere20.pth is not there",
    ):
        assert part in sentence
    assert "finetune" in out and "about" in out  # the dry run needs none of them


def test_what_would_stop_the_run_later_is_named_now(check, photos):
    """A batch larger than its set, which the run refuses."""
    folders = ["--drawn", "false", "--faces", photos / "faces", "--actions", photos / "actions"]
    limits = ["--train_identities", 0, "--train_frames", 0, "--test_frames", 0]
    status, out, sentence = check(*folders, *limits, "--pretrain_recognizer_batch", 13)
    assert status == 2 and "12 faces of 4 people" in out and "Nothing is missing" not in out
    assert (
        "pretrain_recognizer_batch is 13, but there are 12 faces to train on: give more pictures, "
        "or a smaller" in sentence
    )


def test_short_memory_is_said_without_a_dry_run(check, monkeypatch):
    monkeypatch.setattr(optim, "memory", lambda device: (0.025, 1.0))
    status, out, sentence = check()
    assert status == 2 and "dry run" not in out
    assert (
        "networks in training need 0.0 GiB where 0.0 are free: give fewer --jobs, "
        "--checkpointing true, --accumulate 2 or smaller batches" in sentence
    )


def test_judging_and_repainted_pictures_are_counted_by_hand(tiny, small, monkeypatch, capsys):
    """Six attackers keep 2 x 16 numbers of each test face before and after; a crop has 3 x 28 x 24
    values, with jitter of the landmarks the face has 3 x 32 x 32. Test faces are kept twice."""
    many = {"train_people": 6, "classes": 10, "train_faces": 10**6, "test_faces": 10**6}
    many |= {"train_frames": 10, "test_frames": 10}
    assert len(evaluate.ATTACKERS) == 6
    judging = 6 * 2 * 10**6 * 2 * 16 * 4 / 2**30
    for jitter, values in ((0.0, 3 * 28 * 24), (1.0, 3 * 32 * 32)):
        config = tiny(landmark_jitter=jitter, memory_gb=0.0, drawn=False)
        disk = 0.01 + 2 * 2 * 10**6 * (values + 3 * 32 * 32) / 2**30
        short = checkup.check_space(config, many, 0.0, "cpu", 2, 1)
        assert (
            f"{2 * judging:.1f} for judging (2 at once), 0.0 for the pictures, {disk:.1f} on disk"
            in capsys.readouterr().out
        )
        assert f"files on disk need {disk:.1f} GiB where 0.0 are free" in short[0]
    monkeypatch.setattr(optim, "memory", lambda device: (2.5, 4.0))  # one job would do
    short = checkup.check_space(config, many, 1e9, "cpu", 2, 1)
    assert short == [
        f"pictures and judging need {2 * judging:.1f} GiB where 2.5 are free: lower --memory_gb, "
        "or read fewer (--train_identities, --pictures_each, --train_frames)"
    ]
    assert checkup.check_space(config, many, 1e9, "cpu", 1, 1) == []


def test_rows_side_by_side_must_fit_together(check, monkeypatch):
    monkeypatch.setattr(optim, "memory", lambda device: (2.0, 4.0))
    monkeypatch.setattr(evaluate, "needs", lambda *_, **__: {"training": 0.9, "disk": 0.0})
    assert check("--jobs", 2)[0] == 0
    status, out, sentence = check("--jobs", 3)
    assert (
        status == 2
        and "dry run" not in out
        and "networks in training need 2.7 GiB where 2.0 are free: give fewer --jobs" in sentence
    )


def test_a_gpu_that_runs_out_of_memory_on_the_way(check, monkeypatch):
    def greedy(self, pictures, *rest):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(trainer.Game, "update_modifier", greedy)
    status, out, sentence = check()
    assert status == 2 and "dry run on cpu" in out
    assert "the GPU's memory is full: " in sentence and "--accumulate 2" in sentence


def test_pictures_and_checkpoints_that_do_not_fit(check, monkeypatch):
    monkeypatch.setattr(evaluate, "needs", lambda *_, **__: {"training": 1e-3, "disk": 1e9})
    monkeypatch.setattr(checkup, "picture_memory", lambda *_: 1e9)
    status, out, sentence = check()
    assert status == 2 and "choose another --out" in sentence
    assert "at that speed: " in out  # the dry run fits, so it says what the run would take
    assert optim.memory("cpu")[0] == math.inf or (
        "pictures and judging need 1000000000.0 GiB where" in sentence
    )
