"""ppad.ranks: two real processes (torchrun, gloo) train what one trains, stop and go on together, and write once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import ranks_child
import torch
from test_reproduce import read, run

from ppad import config, datasets, ranks
from ppad.loop import read_checkpoint, read_log

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
    reason="this torch has no gloo",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two folders: what one process trained, and what two did."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        ROOT / "tests/ranks_child.py",
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
        ranks_child.everything(one)
        said = process.communicate(timeout=300)[0]
    finally:
        process.kill()
    assert (two / "Loop1.txt").exists(), said
    (two / "said.txt").write_text(f"{said}\nstatus {process.returncode}")
    return one, two


# ------------------------------------------------------------------ the same training


@pytest.mark.parametrize("what", ["D", "whole", "parts"])
def test_two_processes_train_what_one_does(trained, what):
    """Losses to 1e-4 and weights to 1e-5 after up to seven updates in fp32: sums are taken in another order, no more."""
    one, two = (read_log(folder / what / "log.jsonl") for folder in trained)
    assert [(line["stage"], line["step"]) for line in one] == [
        (line["stage"], line["step"]) for line in two
    ]
    assert {line["stage"] for line in one} == (
        {"train"} if what == "D" else {"copy", "practice", "game", "finetune"}
    )
    for line, other in zip(one, two):
        where = line.pop("stage"), other.pop("stage")
        assert other == pytest.approx(line, rel=1e-4, abs=2e-5), where  # the log keeps five digits
    one, two = (read_checkpoint(folder / what / "checkpoint.pt")["parts"] for folder in trained)
    torch.manual_seed(0)
    start = ranks_child.game(config.build("toy", **{**ranks_child.TINY, **ranks_child.PLAIN}))
    for player in ("recognizer",) if what == "D" else ("recognizer", "anonymizer", "detector"):
        begun, moved = getattr(start, player).state_dict(), 0.0
        for name, weight in one[player].items():
            torch.testing.assert_close(
                two[player][name],
                weight,
                rtol=1e-4,
                atol=1e-5,
                msg=lambda text: f"{player}.{name}: {text}",
            )
            moved = max(moved, float((weight - begun[name]).abs().max()))
        assert moved > 1e-3, player  # a hundred times the tolerance
    assert (
        two["batches" if what == "D" else "faces"]["position"]
        == one["batches" if what == "D" else "faces"]["position"]
    )


def test_ctrl_c_at_one_process_stops_both_and_going_on_changes_no_bit(trained):
    """After a step that both have done; each goes on with the chance it had."""
    _, two = trained
    assert {(two / f"stopped{number}.txt").read_text() for number in (0, 1)} == {
        "stopped at Ours game step 1; the same command goes on from here"
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
    assert (two / "chance0.txt").read_text() != (two / "chance1.txt").read_text()


# ------------------------------------------------------------------ the main job


def test_main_is_stopped_by_ctrl_c_goes_on_and_ends_with_results(trained, tiny_args):
    folder, said = trained[1] / "main", (trained[1] / "said.txt").read_text()
    assert [
        (trained[1] / f"{kind}{number}.txt").read_text()
        for kind in ("Pressed", "Loop")
        for number in (0, 1)
    ] == ["130", "130", "0", "0"]
    assert said.count("ppad.reproduce: stopped at Ours game step 1; the same command goes on") == 2
    assert said.count("| Ours |") == 1 and said.count("Ours game 3/3") == 1  # one process tells
    results = read(folder / "results.json")
    assert results["hardware"]["processes"] == 2 and results["hardware"]["jobs"] == 1
    lines = [(line["stage"], line["step"]) for line in read_log(folder / "seed0/Ours/log.jsonl")]
    assert lines == [
        (stage, step)
        for stage, steps in (("copy", 2), ("practice", 2), ("game", 3), ("finetune", 2))
        for step in range(1, steps + 1)
    ]
    assert not list(folder.rglob("*.tmp"))
    assert (
        run(*tiny_args, "--rows", "Ours", "--out", folder) == 0
    )  # and one process takes it as its own


def test_a_process_that_ends_early_ends_the_other(trained):
    """The last thing the first one does is to fail, while the other waits for it: torchrun says so and comes to its end."""
    said = (trained[1] / "said.txt").read_text()
    assert "exitcode  : 3" in said and said.endswith("status 1")


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


def test_what_two_processes_cannot_do_is_told_before_they_wait(
    two, tiny, tiny_args, tmp_path, monkeypatch, capfd
):
    assert (ranks.asked(), ranks.number(), ranks.first(), ranks.count()) == (2, 1, False, 1)
    for fields, told in (
        (
            {"batch_frames": 3, "accumulate": 1},
            "batch_frames is 3: 2 processes share it, so 2 must divide it",
        ),
        (
            {"batch_faces": 6, "batch_frames": 4, "accumulate": 2},
            "batch_faces is 6: .* so 4 must divide it",
        ),
    ):
        with pytest.raises(ValueError, match=told):
            ranks.join("cpu", tiny(**fields))
    with pytest.raises(ValueError, match="give --device cuda, and each process takes one GPU"):
        ranks.join("cuda:0", tiny())
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(
        ValueError, match="torchrun started 2 processes for 1 GPU: give --nproc-per-node 1"
    ):
        ranks.join("cuda", tiny())
    assert run(*tiny_args, "--jobs", 2, "--out", tmp_path) == 2
    assert "--jobs is 2: under torchrun it must be 1" in capfd.readouterr().err
    assert (
        run(*tiny_args, "--check", "--out", tmp_path) == 0 and capfd.readouterr().out == ""
    )  # the first process checks


def test_a_share_is_an_equal_part_in_order(two, tiny, monkeypatch):
    monkeypatch.setattr(ranks, "count", lambda: 2)
    assert torch.equal(ranks.share(torch.arange(6))[0], torch.tensor([3, 4, 5]))
    assert ranks.share(list("abcd"), torch.zeros(4, 3))[0] == ["c", "d"]
    with pytest.raises(ValueError, match="2 processes cannot share a batch of 3 equally"):
        ranks.share(torch.zeros(3))


def test_a_torch_without_distributed_is_alone(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_available", lambda: False)
    for name in ("is_torchelastic_launched", "is_initialized"):
        monkeypatch.delattr(torch.distributed, name)  # as such a torch has it
    assert (ranks.asked(), ranks.count(), ranks.first()) == (1, 1, True)


def test_alone_nothing_is_done():
    ranks.join("cpu", config.build("toy", batch_frames=7))
    table, loss, flags = torch.ones(2), torch.ones(1), (True, False)
    assert (
        ranks.mean(table) is table
        and ranks.Averaging([torch.ones(1)])(loss) is loss
        and ranks.any_of(*flags) == flags
    )
    assert (
        ranks.share(table)[0] is table
        and ranks.every(3) == [3]
        and ranks.first_does(lambda: 5) == 5
    )
    norm = torch.nn.Sequential(torch.nn.BatchNorm2d(2))
    ranks.join_norms(norm)
    assert type(norm[0]) is torch.nn.BatchNorm2d and not torch.distributed.is_initialized()
    assert (
        len(
            datasets.Feed(datasets.toy_faces(0, range(2), 2, 16), datasets.Batches(4, 3, 0)).next()[
                0
            ]
        )
        == 3
    )
