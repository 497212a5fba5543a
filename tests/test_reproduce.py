"""The main job, run at its smallest: its files, its numbers, what it refuses, and `kill -9`."""

import json
import math
import multiprocessing
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ppad import datasets, evaluate, files, reproduce
from ppad.baselines import identity
from ppad.loop import read_log

ROOT = Path(__file__).resolve().parents[1]
# As in this process: threads change the order of sums.
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
ROWS = ["Un-anonymized", "Masked", "Ours"]
ERRORS = {*evaluate.ATTACKERS, "inverting", "strongest", "probe_vs_original"}


def run(*words):
    """Exit status of the main job, argparse's own exit included."""
    try:
        return reproduce.main([str(word) for word in words])
    except SystemExit as stop:
        return stop.code


def job_command(words, out):
    """The main job as another process would call it, saving after every step."""
    job = [sys.executable, "-m", "ppad.reproduce"]
    return [*job, *map(str, words), "--checkpoint_seconds", "0", "--out", str(out)]


def started(words, out, wait_for):
    """The main job in a session of its own, as from a terminal, once the file `wait_for` exists."""
    process = subprocess.Popen(
        job_command(words, out),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=ONE_THREAD,
    )
    await_file(out / wait_for, lambda: process.poll() is None)
    assert (out / wait_for).exists(), process.stderr.read()
    return process


def await_file(path, alive):
    deadline = time.monotonic() + 120
    while not path.exists() and alive() and time.monotonic() < deadline:
        time.sleep(0.002)


def forked(work, log=os.devnull):
    """A fork of this process, in a session of its own: Python need not start.

    It exits with the status `work()`; what it prints goes to the file `log`.
    """

    def job():
        os.setsid()
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout = open(1, "w", closefd=False)
        sys.stderr = open(2, "w", closefd=False)
        sys.exit(work())

    process = multiprocessing.get_context("fork").Process(target=job)
    process.start()
    return process


def started_fork(words, out, wait_for, log=os.devnull):
    """As `started`, in a fork of this process."""
    process = forked(lambda: run(*words, "--checkpoint_seconds", 0, "--out", out), log)
    await_file(out / wait_for, process.is_alive)
    assert (out / wait_for).exists(), log
    return process


def read(path):
    return json.loads(Path(path).read_text())


def numbers(path):
    """A row.json without what the machine decides."""
    return {
        key: value
        for key, value in read(path).items()
        if key not in ("minutes", "peak_memory_gb", "gpu_peak_gb")
    }


def tree(folder):
    return {
        path.relative_to(folder).as_posix(): path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_args):
    """A finished run: three rows (asked for in another order), two seeds. Read only."""
    out = tmp_path_factory.mktemp("runs") / "toy"
    assert (
        run(*tiny_args, "--out", out, "--rows", "Ours", "Masked", "Un-anonymized", "--seed", 0, 1)
        == 0
    )
    return out


@pytest.fixture
def copied(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def without_figures(monkeypatch):
    """Every call draws all figures anew, for a second; for tests that look at other things."""
    monkeypatch.setattr(reproduce, "draw", lambda *_: None)


# ------------------------------------------------------------------ what a run leaves


def test_files(finished):
    there = set(tree(finished))
    assert {"config.json", "results.json", "table1.md", "ablation.md", "looks.md"} <= there
    drawn = {"fig3.png", "fig4.png", "fig5.png", "fig6.png", "inverted.png", "curves.png"}
    assert drawn <= there
    for seed in ("seed0", "seed1"):
        for row in ROWS:
            assert {
                f"{seed}/{row}/{name}"
                for name in (
                    "row.json",
                    "checkpoint.pt",
                    "log.jsonl",
                    "retrained/checkpoint.pt",
                    "inverting/checkpoint.pt",
                )
            } <= there
        assert {
            f"{seed}/Ours/sample_warmup_000002.png",
            f"{seed}/Ours/sample_game_000002.png",
        } <= there
    assert not [name for name in there if name.endswith(".tmp") or name.endswith(".part")]
    for name in drawn:
        with Image.open(finished / name) as picture:
            picture.load()


def test_results_have_the_promised_shape(finished, tiny):
    results = read(finished / "results.json")
    assert results["preset"] == "toy" and results["seeds"] == [0, 1] and results["minutes"] > 0
    assert (
        results["hardware"]["cores"] == os.cpu_count()
        and results["versions"]["torch"] == torch.__version__
    )
    assert [row["name"] for row in results["rows"]] == ROWS  # the paper's order
    assert (
        len(results["controls"]) == 2
        and "misaligned_originals" in results["controls"][0]["never_saw"]
    )
    for row in results["rows"]:
        assert set(row["AP"]) == set(datasets.ACTIONS)
        assert set(row["verification_error"]) == ERRORS and set(row["structure"]) == {
            "l1",
            "landmark_error",
            "outside_gradient",
            "spread",
            "faces_too_small",
        }
        for value in (row["mAP"], *row["verification_error"].values()):
            assert set(value) == {"mean", "std", "per_seed"} and len(value["per_seed"]) == 2
            assert all(0 <= x <= 1 for x in value["per_seed"])
            assert value["mean"] == pytest.approx(np.mean(value["per_seed"]))
            assert value["std"] == pytest.approx(np.std(value["per_seed"], ddof=1))


def test_results_are_those_of_the_rows_on_disk(finished):
    for row in read(finished / "results.json")["rows"]:
        for number, seed in enumerate(("seed0", "seed1")):
            own = read(finished / seed / row["name"] / "row.json")
            assert own["mAP"] == row["mAP"]["per_seed"][number]
            errors = own["verification_error"]
            assert {key: errors[key] for key in ERRORS} == {
                key: row["verification_error"][key]["per_seed"][number] for key in ERRORS
            }
            assert errors["strongest"] == min(
                own["attacks"][name][kind]["error"]
                for kind in ("both", "probe")
                for name in evaluate.ATTACKERS
            )
            assert errors["inverting"] == min(
                own["attacks"][f"inverting_{name}"]["both"]["error"]
                for name in ("never_saw", "other_architecture")
            )
            low, high = own["attacks"]["strongest"]["interval"]
            assert 0 <= low <= high <= 1


def test_what_must_be_true_of_the_rows_whatever_the_training(finished):
    rows = {row["name"]: row for row in read(finished / "results.json")["rows"]}
    assert rows["Un-anonymized"]["structure"]["l1"] == 0 and rows["Masked"]["structure"]["l1"] > 0.3
    controls = read(finished / "results.json")["controls"]
    for seed, control in enumerate(controls):  # doing nothing leaves these two as they were
        for name in ("never_saw", "other_architecture"):
            assert (
                rows["Un-anonymized"]["verification_error"][name]["per_seed"][seed]
                == control[name]["originals"]["error"]
            )
    assert rows["Un-anonymized"]["structure"]["landmark_error"] == pytest.approx(
        np.mean([control["landmark_reader_on_originals"] for control in controls])
    )
    masked = rows["Masked"]["verification_error"]  # on black pictures nobody beats chance
    assert (
        masked["never_saw"]["per_seed"]
        == masked["own"]["per_seed"]
        == masked["retrained"]["per_seed"]
        == [0.5, 0.5]
    )


def test_budget_is_the_same_for_all_and_written_down(finished, tiny):
    config = tiny()
    budget = read(finished / "results.json")["budget"]
    assert (
        budget["A"] == config.T1 + config.T2
        and budget["D"] == config.T1 * config.recognizer_updates
    )
    for row in ROWS:
        state = torch.load(finished / "seed0" / row / "checkpoint.pt", weights_only=True)["parts"]
        for player, steps in (("detector", budget["A"]), ("recognizer", budget["D"])):
            assert int(next(iter(state[f"{player}_optimizer"]["state"].values()))["step"]) == steps
    starts = [
        torch.load(finished / "seed0/start" / name / "checkpoint.pt", weights_only=True)["done"]
        for name in ("recognizer", "detector")
    ]
    assert starts == [
        {"train": budget["before_all_rows"]["D"]},
        {"detector": budget["before_all_rows"]["A"]},
    ]


def test_table(finished):
    lines = (finished / "table1.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ROWS
    assert "mAP" in lines[0] and all(name in lines[0] for name in datasets.ACTIONS)
    assert "±" in lines[2]


@pytest.mark.usefixtures("without_figures")
@pytest.mark.parametrize("jobs", [1, 2])
def test_the_table_grows_as_rows_finish(jobs, tiny_args, tmp_path, capfd):
    """Each row's line is shown once, at its end, with the numbers of table1.md."""
    words = [*tiny_args, "--jobs", jobs, "--rows", "Un-anonymized", "Masked", "--out", tmp_path]
    assert run(*words) == 0
    error = capfd.readouterr().err
    shown = [line for line in error.splitlines() if line.startswith("|")]
    assert len({len(line) for line in shown}) == 1 and len(shown[0]) <= 80
    head, *lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in shown]
    assert head[0] == "Method, seed 0" and head[-1] == "error: strongest"
    text = (tmp_path / "table1.md").read_text()
    names, _, *rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()
    ]
    columns = [0, *map(names.index, head[1:])]
    assert sorted(lines) == sorted([row[column] for column in columns] for row in rows)
    if jobs == 1:
        assert error.index("| Un-anonymized") < error.index("Masked game 1/")
    assert run(*words) == 0  # rows that are done already are in it, too
    again = capfd.readouterr().err.splitlines()
    assert sorted(line for line in again if line.startswith("|")) == sorted(shown)


def test_a_quick_run_has_four_rows_unless_others_are_named(capsys):
    rows = ["Un-anonymized", "Blur(8x8)", "Masked", "Ours"]
    assert reproduce.parse(["--preset", "quick"])[0].rows == rows
    assert reproduce.parse(["--preset", "quick", "--rows", "Edge"])[0].rows == ["Edge"]
    assert reproduce.parse([])[0].rows == reproduce.ROWS
    with pytest.raises(SystemExit):
        reproduce.parse(["--help"])
    said = "".join(capsys.readouterr().out.split())  # lines break at hyphens, too
    assert f"quick:{''.join(rows)})" in said


def test_logs_have_every_step_once(finished, tiny):
    config = tiny()
    game = [("game", n) for n in range(1, config.T1 + 1)] + [
        ("finetune", n) for n in range(1, config.T2 + 1)
    ]
    for row in ROWS:
        steps = [
            (line["stage"], line["step"])
            for line in read_log(finished / "seed1" / row / "log.jsonl")
        ]
        assert (
            steps
            == ([("copy", 1), ("copy", 2), ("warmup", 1), ("warmup", 2)] if row == "Ours" else [])
            + game
        )


def test_test_people_and_scenes_are_not_training_ones(tiny):
    data = evaluate.load_data(tiny(), 0)
    people = [{name.split("/")[0] for name in part.names} for part in (data.faces, data.test_faces)]
    assert people[0] and people[1] and not people[0] & people[1]
    assert not set(data.actions.names) & set(data.test_actions.names)
    assert (
        len(data.pairs) == tiny().test_pairs
        and int(data.pairs.same.sum()) == tiny().test_pairs // 2
    )
    assert sorted(set(data.pairs.folds.tolist())) == [0, 1]


def test_second_call_trains_nothing(copied, tiny_args, capsys):
    seeds = ("seed0", "seed1")
    before = {seed: tree(copied / seed) for seed in seeds}
    results = read(copied / "results.json")
    assert run(*tiny_args, "--out", copied, "--rows", *ROWS, "--seed", 0, 1) == 0
    assert {seed: tree(copied / seed) for seed in seeds} == before  # not one file touched
    after = read(copied / "results.json")
    assert {**after, "minutes": 0} == {**results, "minutes": 0}
    assert after["minutes"] >= results["minutes"]  # of all calls together
    assert after["minutes"] == round(read(copied / "minutes.json")["minutes"], 2)
    assert " left" not in capsys.readouterr().err  # no step was taken


@pytest.mark.usefixtures("without_figures")
def test_a_row_is_the_same_alone_as_in_company(copied, tiny_args):
    """Rows share their pretrained start and nothing else: the order of work cannot matter."""
    wanted = shutil.copy(copied / "seed0/Ours/row.json", copied / "wanted.json")
    shutil.rmtree(copied / "seed0/Ours")
    assert run(*tiny_args, "--out", copied, "--rows", "Ours", "--seed", 0) == 0
    assert numbers(copied / "seed0/Ours/row.json") == numbers(wanted)
    results = read(copied / "results.json")
    assert [row["name"] for row in results["rows"]] == ["Ours"] and results["seeds"] == [0]
    assert results["rows"][0]["mAP"]["std"] == 0


# ------------------------------------------------------------------ rows by name or from a file

OWN = """
class Darker:
    def __call__(self, faces):
        return faces * 0.5 - 0.5
"""


def test_rows_with_another_M(tiny_args, tmp_path):
    """One that is given the person, and the paper's; the inverting attacker is one for both."""
    out = tmp_path / "run"
    rows = ["Ours", "Ours(paper)"]
    words = [*tiny_args, "--modifier_exchange", "true"]
    assert run(*words, "--rows", *rows, "--out", out) == 0
    assert [row["name"] for row in read(out / "results.json")["rows"]] == rows
    exchange, paper = (
        torch.load(out / f"seed0/{row}/checkpoint.pt", weights_only=True)
        for row in ("Ours", "Ours_paper")
    )
    assert "others" in exchange["parts"]["anonymizer"] and "people" in exchange["parts"]["reader"]
    assert "warmup_reader" not in exchange["parts"]  # the same reader, kept once
    assert paper["settings"]["adversarial_cap"] == math.inf
    assert "decoder.0.weight" in paper["parts"]["anonymizer"]  # a transposed convolution
    for row in ("Ours", "Ours_paper"):
        undo = torch.load(out / f"seed0/{row}/inverting/checkpoint.pt", weights_only=True)
        network = undo["parts"]["network"]
        assert "decoder.1.weight" in network and "decoder.0.weight" not in network  # upsampling


def test_an_own_row_and_random_labels_stand_in_the_table(tiny_args, tmp_path, capsys):
    (tmp_path / "own.py").write_text(OWN)
    words = [*tiny_args, "--rows", "Ours(random)", "Masked", "--out", tmp_path / "run"]
    own = ["--row", f"My Darker={tmp_path / 'own.py'}:Darker"]
    assert run(*words, *own) == 0
    results = read(tmp_path / "run/results.json")
    assert [row["name"] for row in results["rows"]] == ["Masked", "Ours(random)", "My Darker"]
    l1 = results["rows"][2]["structure"]["l1"]
    assert 0.1 < l1 < 1  # |x/2 + 1/2|
    for name in ("fig3.png", "inverted.png", "table1.md", "ablation.md"):
        assert (tmp_path / "run" / name).exists()
    assert "My Darker" in (tmp_path / "run/ablation.md").read_text()
    state = torch.load(tmp_path / "run/seed0/Ours_random/checkpoint.pt", weights_only=True)
    assert state["settings"]["adversarial_target"] == "random"

    before = numbers(tmp_path / "run/seed0/My_Darker/row.json")
    assert run(*words, *own) == 0  # nothing is done again
    assert numbers(tmp_path / "run/seed0/My_Darker/row.json") == before
    with (tmp_path / "own.py").open("a") as file:
        file.write("# another file\n")
    assert run(*words, *own) == 2
    error = capsys.readouterr().err
    assert "row.json was made with another file or class of --row My Darker: restore it" in error
    (tmp_path / "run/seed0/My_Darker/row.json").unlink()  # as if it was stopped before the end
    assert run(*words, *own) == 2
    assert "belongs to another configuration" in capsys.readouterr().err


def test_an_own_network_is_shown_with_the_weights_that_were_judged(tiny, tmp_path):
    """Its constructor draws them."""
    own = evaluate.OwnRow("Net", lambda device: torch.nn.Linear(8, 8), "")
    one = reproduce.SeedRun(tiny(), tmp_path, 0, "cpu", own={"Net": own})
    judged = one.make_anonymizer("Net").weight
    assert torch.equal(one.finished("Net").weight, judged)


def test_an_own_row_that_ends_the_program_is_refused(tiny_args, tmp_path, capsys):
    (tmp_path / "ends.py").write_text("import sys\nsys.exit(0)\n")
    assert run(*tiny_args, "--out", tmp_path / "run", "--row", f"A={tmp_path / 'ends.py'}:A") == 2
    assert "--row A: A of" in capsys.readouterr().err and not (tmp_path / "run").exists()


@pytest.mark.parametrize("seeds", [(0, 0), (-1,), (2**63,)])
def test_seeds_are_different_numbers(tiny_args, tmp_path, capsys, seeds):
    assert run(*tiny_args, "--out", tmp_path / "run", "--seed", *seeds) == 2
    assert "argument --seed: give different whole numbers" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["Masked", "masked", "start", "Ours", "Ours_random_", "data.json", "Start.json"]
)
def test_an_own_row_cannot_take_a_name_that_is_taken(tiny_args, tmp_path, capsys, name):
    (tmp_path / "own.py").write_text(OWN)
    words = [*tiny_args, "--rows", "Masked", "--out", tmp_path / "run"]
    assert run(*words, "--row", f"{name}={tmp_path / 'own.py'}:Darker") == 2
    assert f"--row {name}: that name is taken: choose another" in capsys.readouterr().err


# ------------------------------------------------------------------ which pictures are drawn


@pytest.fixture
def drawn(monkeypatch):
    """What `reproduce.draw` gives to the figures, by figure."""
    given = {}
    for name in ("fig3", "fig4", "fig5", "fig6", "training_curves"):
        monkeypatch.setattr(
            reproduce.figures, name, lambda *a, _name=name, **k: given.update({_name: (a, k)})
        )
    return given


class FinishedRun(reproduce.SeedRun):
    """A run whose rows leave every face as it is; pictures are known by their gray level."""

    def __init__(self, folder, config, identities, frames):
        levels = torch.arange(len(identities), dtype=torch.uint8)
        faces = datasets.FaceSet(
            levels[:, None, None, None].expand(-1, 3, 8, 8),
            torch.zeros(len(identities), 5, 2),
            torch.tensor(identities),
            [""] * len(identities),
        )
        levels = torch.arange(len(frames), dtype=torch.uint8)
        box = torch.tensor([[2.0, 2, 6, 6]])
        actions = datasets.ActionSet(
            levels[:, None, None, None].repeat(1, 3, 16, 16),
            [box] * len(frames),
            [torch.tensor([1])] * len(frames),
            [box if has_face else box[:0] for _, has_face in frames],
            [name for name, _ in frames],
            ["drink"],
        )
        self.data = evaluate.Data(None, None, faces, actions, None)
        self.config = config
        self.folder = folder
        self.device = "cpu"
        self.seed = 0
        self.own = {}
        (folder / "Masked").mkdir(parents=True)
        (folder / "Masked/log.jsonl").write_text("")

    def finished(self, name):
        return identity

    def inverter(self, name):
        return identity


def levels(pictures):
    """The gray levels of pictures (n, 3, H, W), by which `FinishedRun` tells them apart."""
    return ((pictures[:, 0, 0, 0] + 1) * 127.5).round().int().tolist()


def test_fig6_takes_people_with_four_pictures_before_it_draws_eight(tiny, tmp_path, drawn):
    """Ninety people of whom three have four pictures, as in LFW where few have so many."""
    identities = [*range(90), *[5, 40, 77] * 3, 60]
    run = FinishedRun(tmp_path, tiny(), identities, [])
    reproduce.draw(run, tmp_path, {}, ["Masked"])
    groups, _, clips = drawn["fig6"][0]
    people = [{identities[i] for i in levels(group)} for group in groups]
    assert sorted(map(list, people)) == [[5], [40], [77]] and clips == []
    assert all(len(group) == 4 for group in groups)
    assert len(drawn["fig5"][0][0]) == 8 and drawn["fig5"][1]["frames"] is None


def test_clips_are_folders_with_frames_of_one_person(tiny, tmp_path, drawn):
    """Not folders named after an action, which hold stills of many people; faces must be there."""
    frames = [(f"drink/{i}", True) for i in range(6)]  # stills
    frames += [(f"drink/clip1/{i}", i != 1) for i in range(5)]  # frames 6, 8, 9, 10 have a face
    frames += [(f"short/{i}", True) for i in range(3)]  # 11 to 13, too few
    frames += [(f"{i}", True) for i in range(14, 20)]  # in no folder
    run = FinishedRun(tmp_path, tiny(), [0, 1], frames)
    reproduce.draw(run, tmp_path, {}, ["Masked"])
    assert "fig6" not in drawn  # nobody has four pictures
    before, after = drawn["fig5"][1]["frames"]
    assert levels(before) == levels(after) == [6]  # one of each clip
    run = FinishedRun(tmp_path / "more", tiny(), [0] * 4, frames)
    reproduce.draw(run, tmp_path, {}, ["Masked"])
    clips = drawn["fig6"][0][2]
    assert [levels(clip) for clip in clips] == [[6, 8, 9, 10]]


def test_stills_without_clips_are_shown_before_and_after(tiny, tmp_path, drawn):
    frames = [(f"drink/{i}", i > 1) for i in range(9)]
    run = FinishedRun(tmp_path, tiny(), [0, 1], frames)
    reproduce.draw(run, tmp_path, {}, ["Masked"])
    before, _ = drawn["fig5"][1]["frames"]
    shown = levels(before)
    assert len(set(shown)) == 4 and min(shown) > 1


def test_pictures_of_an_anonymizer_that_draws(tiny, tmp_path, drawn):
    """What is inverted is the picture beside it, and the seed alone decides what is drawn."""
    run = FinishedRun(tmp_path, tiny(), range(8), [])
    run.finished = lambda name: lambda faces: faces + torch.rand_like(faces)
    shown = []
    for _ in range(2):
        reproduce.draw(run, tmp_path, {}, ["Masked"])
        shown.append(drawn["fig3"][0][0]["Masked"])  # by the last call: inverted.png
    modified, inverted = shown[0][::2], shown[0][1::2]
    assert torch.equal(modified, inverted) and torch.equal(*shown)


# ------------------------------------------------------------------ refused in one sentence


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["--nosuch", "3"], "unrecognized arguments: --nosuch"),
        (["--see", "1"], "unrecognized arguments: --see"),  # no flag is guessed
        (["--row", "Masked"], "--row Masked: give NAME=FILE.py:CLASS"),
        (["--row", "Mine=nowhere.py:Mine"], "nowhere.py: there is no such module"),
        (["--threads", "2"], "unrecognized arguments: --threads"),
        (["--jobs", "0"], "--jobs is 0: it must be at least 1"),
        (["--warmup_steps", "-1"], "warmup_steps is -1: it must be at least 0"),
        (["--test_pairs", "3"], "test_pairs is 3: each of the 2 folds needs a pair of each kind"),
        (["--rows", "Blur(7x7)"], "invalid choice: 'Blur(7x7)'"),
        (["--preset", "tiny"], "invalid choice: 'tiny'"),
        (["--T1", "0", "--T2", "0"], "T1, epochs and T2 are 0, so the game trains nothing"),
        (["--T1", "many"], "--T1: invalid int value: 'many'"),
        (["--seed", "one"], "--seed: invalid int value: 'one'"),
        (["--batch_faces", "0"], "batch_faces is 0: it must be at least 1"),
        (["--face_size", "30"], "face_size is 30"),
        (["--adversarial_target", "descent"], "adversarial_target is 'descent'"),
        (["--recognizer_depth", "7"], "recognizer_depth is 7: it must be 4 or 10 or 20"),
        (["--batch_faces", "1000"], "batch_faces is 1000, but there are 24 faces to train on"),
        (["--test_pairs", "100000"], "only 36 of one exist: give more test_identities"),
    ],
)
def test_wrong_command_lines(words, sentence, tiny_args, tmp_path, capsys):
    assert run(*tiny_args, "--rows", "Masked", "--out", tmp_path / "run", *words) == 2
    error = capsys.readouterr().err
    assert sentence in error and "Traceback" not in error


def test_other_settings_in_the_same_folder(copied, tiny_args, capsys):
    before = tree(copied)
    assert run(*tiny_args, "--out", copied, "--l1_weight", "9") == 2
    assert "l1_weight: 5.0 there, 9.0 here" in capsys.readouterr().err and tree(copied) == before
    assert run(*tiny_args, "--out", copied, "--l1_weight", "9", "--check") == 2
    said = capsys.readouterr()
    assert "l1_weight: 5.0 there, 9.0 here" in said.err and "Nothing is missing" not in said.out
    assert run(*tiny_args, "--out", copied, "--rows", "Masked", "--check") == 0


@pytest.mark.parametrize("field", ["recognizer_weights", "detector_weights"])
def test_a_mistyped_file_of_weights_costs_nothing(tiny_args, tmp_path, capsys, field):
    out = tmp_path / "run"
    assert run(*tiny_args, "--rows", "Masked", "--out", out, f"--{field}", "typo.pt") == 2
    assert f"{field} typo.pt is not there" in capsys.readouterr().err and not out.exists()


def test_a_folder_whose_data_could_not_be_read_is_free(tiny_args, tmp_path, capsys):
    """It was taken by the settings of a run that never began."""
    words = [*tiny_args, "--rows", "Masked", "--out", tmp_path / "run"]
    words += ["--drawn", "false", "--faces", "nowhere"]
    assert run(*words) == 2
    assert (tmp_path / "run" / "config.json").exists()
    assert run(*words, "--T1", "7") == 2
    error = capsys.readouterr().err
    assert "nowhere" in error and "another --out" not in error


def test_other_settings_of_the_machine_are_welcome(copied, tiny_args):
    assert (
        run(
            *tiny_args,
            "--out",
            copied,
            "--rows",
            "Masked",
            "--log_every",
            "7",
            "--checkpoint_seconds",
            "1",
        )
        == 0
    )


def test_out_that_cannot_be_made(tmp_path, tiny_args, capsys):
    (tmp_path / "file").write_text("I am no folder")
    assert run(*tiny_args, "--out", tmp_path / "file" / "run") == 2
    out = tmp_path / "file" / "run"
    assert f"cannot write {out} (Not a directory): choose another" in capsys.readouterr().err
    link = tmp_path / "link"
    link.symlink_to("/nowhere/run")
    assert run(*tiny_args, "--out", link) == 2
    assert f"cannot write {link} (File exists): choose another" in capsys.readouterr().err


def test_a_disk_that_takes_no_more_files(tmp_path, tiny_args, capsys, monkeypatch):
    def full(path, *arguments, **how):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "touch", full)
    assert run(*tiny_args, "--out", tmp_path) == 2
    assert f"cannot write {tmp_path} (No space left on device): free" in capsys.readouterr().err


def test_corrupt_checkpoint_is_named(copied, tiny_args, capsys):
    path = copied / "seed0/start/detector/checkpoint.pt"
    path.write_bytes(path.read_bytes()[:1000])
    assert run(*tiny_args, "--out", copied, "--rows", "Masked") == 2
    assert f"{path} cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["Ours", "Ours/inverting"])
def test_a_finished_row_without_its_checkpoint_is_trained_again(copied, tiny_args, capsys, place):
    words = [*tiny_args, "--out", copied, "--rows", "Ours"]
    path = copied / "seed0" / place / "checkpoint.pt"
    path.unlink()
    assert run(*words) == 2
    said = capsys.readouterr().err
    assert f"{path} does not exist: " in said and "delete the row.json of a row that is" in said
    path.with_name("checkpoint.prev.pt").unlink(missing_ok=True)
    (copied / "seed0/Ours/row.json").unlink()
    assert run(*words) == 0 and path.exists()


def test_a_damaged_log_is_read_up_to_the_damage(copied, tiny_args):
    path = copied / "seed0/Ours/log.jsonl"
    first = path.read_text().splitlines()[0]
    path.write_text(f'{first}\n{{"stage": "ga\n{first}\n')
    assert read_log(path) == [json.loads(first)]
    assert run(*tiny_args, "--out", copied, "--rows", "Ours") == 0


@pytest.mark.usefixtures("without_figures")
@pytest.mark.parametrize(
    "name", ["start.json", "data.json", "Masked/row.json", "../minutes.json", "../results.json"]
)
def test_a_json_file_that_a_crash_left_empty_is_named(copied, tiny_args, capsys, name):
    path = copied / "seed0" / name
    for text, fault in (("", "Expecting value"), ("{}", "it lacks")):
        path.write_text(text)
        assert run(*tiny_args, "--out", copied, "--rows", "Masked") == 2
        assert f"{path.name} cannot be read ({fault}" in capsys.readouterr().err
    path.unlink()
    assert run(*tiny_args, "--out", copied, "--rows", "Masked") == 0 and read(path)


@pytest.mark.parametrize("name, key", [("start.json", "counts"), ("Masked/row.json", "AP")])
def test_a_json_file_that_lacks_one_figure_is_named(copied, tiny_args, capsys, name, key):
    path = copied / "seed0" / name
    content = read(path)
    del content[key]
    path.write_text(json.dumps(content))
    assert run(*tiny_args, "--out", copied, "--rows", "Masked") == 2
    assert f"{path.name} cannot be read (it lacks {key})" in capsys.readouterr().err


@pytest.mark.usefixtures("without_figures")
def test_what_a_results_file_loses_is_said(copied, tiny_args, capsys):
    assert run(*tiny_args, "--out", copied, "--rows", "Masked") == 0
    said = capsys.readouterr()
    assert "results.json loses Un-anonymized, Ours, seed 1: ask for them too" in said.err
    # Its networks would be another seed's than the table's, maybe.
    assert not (copied / "players.pt").exists() and "players.pt" not in said.out
    assert run(*tiny_args, "--out", copied, "--rows", "Masked", "Ours", "--seed", 1) == 0
    assert (copied / "players.pt").exists()
    said = capsys.readouterr().err
    assert "results.json loses seed 0: ask for them too" in said and "versions" not in said


@pytest.mark.usefixtures("without_figures")
def test_rows_of_mixed_versions_are_named(copied, tiny_args, capsys):
    """A run may go on after an update of torch, or on another machine: the user must know."""
    words = [*tiny_args, "--out", copied, "--rows", "Un-anonymized", "Masked"]
    assert run(*words) == 0
    made = [row["made_with"] for row in read(copied / "results.json")["rows"]]
    here = {"torch": torch.__version__, "machine": platform.platform()}
    assert made[0] == made[1] and here.items() <= made[0][0].items()
    path = copied / "seed0" / "Masked" / "row.json"
    row = read(path)
    row["made_with"]["torch"] = "2.6.0"
    path.write_text(json.dumps(row))
    assert run(*words) == 0
    assert "made with different versions or on different machines" in capsys.readouterr().err
    made = [row["made_with"][0]["torch"] for row in read(copied / "results.json")["rows"]]
    assert made == [torch.__version__, "2.6.0"]


def test_results_of_no_run_are_not_overwritten(copied, tiny_args, tmp_path, capsys):
    """Such as the reference results, which are kept without their run's folder."""
    out = tmp_path / "kept"
    out.mkdir()
    (out / "table1.md").write_text("| a table of another run |")
    assert run(*tiny_args, "--out", out, "--rows", "Masked") == 2
    assert f"{out} holds table1.md but no config.json" in capsys.readouterr().err
    assert [path.name for path in out.iterdir() if not path.name.startswith(".")] == ["table1.md"]


@pytest.mark.usefixtures("without_figures")
def test_unfinished_files_of_others_stay(tiny_args, tmp_path):
    """Only what this program left in a folder of its own is cleared away."""
    words = [*tiny_args, "--out", tmp_path, "--rows", "Masked"]
    stays = [".movie.mp4.part", "other/.movie.mp4.1234.part", "seed0/notes.part"]
    goes = [".results.json.1234.part", "seed0/Masked/.checkpoint.pt.1234.part"]
    for name in (*stays, *goes):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    assert run(*words) == 0
    assert all((tmp_path / name).exists() for name in stays)
    assert not any((tmp_path / name).exists() for name in goes)


def test_full_disk(tmp_path, tiny_args, capsys, monkeypatch):
    def full(state, path):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        assert run(*tiny_args, "--out", tmp_path, "--rows", "Masked") == 2
    assert "No space left on device" in capsys.readouterr().err


def test_ctrl_c_ends_with_130_and_a_sentence(tmp_path, tiny_args, capsys, monkeypatch):
    import signal

    from ppad import trainer

    learn = trainer.Game.finetune_detector

    def interrupted(self, *arguments):
        signal.raise_signal(signal.SIGINT)
        return learn(self, *arguments)

    monkeypatch.setattr(trainer.Game, "finetune_detector", interrupted)
    assert run(*tiny_args, "--out", tmp_path, "--rows", "Masked") == 130
    assert (
        "stopped at start: A detector step 1; the same command continues from here"
        in capsys.readouterr().err
    )


def test_a_gpu_that_is_not_there(tiny_args, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run(*tiny_args, "--out", tmp_path, "--device", "cuda") == 2
    assert (
        "device is 'cuda', but torch sees no GPU here: use --device cpu" in capsys.readouterr().err
    )


def test_file_names_are_fit_for_every_system():
    names = [files.file_name(row) for row in reproduce.ROWS]
    assert len(set(names)) == len(names) == 11 and all(
        set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._")
        for name in names
    )


# ------------------------------------------------------------------ photographs


@pytest.fixture
def photo_args(photos, tiny_args):
    return [
        "--preset",
        "photo",
        "--detector_body",
        "toy",
        *tiny_args,
        "--train_identities",
        "0",
        "--pictures_each",
        "0",
        "--train_frames",
        "0",
        "--test_frames",
        "0",
        "--batch_frames",
        "2",
        "--rows",
        "Masked",
        "--faces",
        photos / "faces",
        "--actions",
        photos / "actions",
        "--out",
        photos / "run",
    ]


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def truncate(path):
    path.write_bytes(path.read_bytes()[:200])


def test_photographs_from_folders(photos, photo_args, capsys):
    """The whole job; a bad picture among the training ones is named and left out."""
    truncate(photos / "faces/train/P1/P1_0002.png")
    assert run(*photo_args) == 0
    assert "skipped: " in (error := capsys.readouterr().err) and "P1_0002.png" in error
    results = read(photos / "run/results.json")
    assert results["preset"] == "photo" and set(results["rows"][0]["AP"]) == {"a", "b"}
    assert results["counts"] == {
        "train_faces": 11,
        "train_people": 4,
        "test_faces": 12,
        "test_people": 4,
        "pairs": 8,
        "pairs_dropped": 0,
        "train_frames": 6,
        "test_frames": 4,
        "skipped": 1,
    }


@pytest.mark.usefixtures("without_figures")
def test_folders_are_read_once_for_all_seeds(photos, photo_args, monkeypatch):
    read_faces = datasets.read_faces
    folders = []

    def noted(folder, *rest, **how):
        folders.append(folder.name)
        return read_faces(folder, *rest, **how)

    monkeypatch.setattr(datasets, "read_faces", noted)
    assert run(*photo_args, "--seed", 0, 1) == 0
    assert folders == ["train", "test"]


@pytest.mark.usefixtures("without_figures")
def test_a_picture_that_is_gone_when_the_run_goes_on(photos, photo_args, capsys):
    """Never the advice to throw the checkpoint away: the picture can be put back."""
    picture = photos / "faces/train/P1/P1_0002.png"
    whole = picture.read_bytes()
    assert run(*photo_args) == 0
    truncate(picture)
    assert run(*photo_args, "--rows", "Edge") == 2
    error = capsys.readouterr().err
    assert "P1_0002.png: cannot be read" in error and "move it away" not in error
    assert (
        "train_faces was 12 when this run began and is 11 now: restore the pictures and "
        "tables that were there, or choose another --out" in error
    )
    picture.write_bytes(whole)
    assert run(*photo_args, "--rows", "Edge") == 0


def line_of(path, start):
    return next(line for line in path.read_text().splitlines() if line.startswith(start))


@pytest.mark.parametrize(
    "spoil, sentence",
    [
        (
            lambda root: truncate(root / "faces/test/P4/P4_0001.png"),
            "P4_0001.png: cannot be read as a picture",
        ),
        (lambda root: truncate(root / "actions/7.png"), "7.png: cannot be read as a picture"),
        (
            lambda root: edit(
                root / "faces/landmarks.csv",
                line_of(root / "faces/landmarks.csv", "test/P5/P5_0001"),
                "",
            ),
            "P5_0001.png: the landmark table has no landmarks for it",
        ),
        (
            lambda root: edit(
                root / "actions/annotations.csv",
                line_of(root / "actions/annotations.csv", "2.png"),
                "2.png,train,a,96,96,10,10,10,50",
            ),
            "has no area",
        ),
        (
            lambda root: edit(
                root / "actions/faces.csv",
                line_of(root / "actions/faces.csv", "3.png"),
                "3.png,200,200,220,220",
            ),
            "lies outside its 96 x 96 picture",
        ),
        (
            lambda root: edit(root / "actions/annotations.csv", "0.png,train,a", "0.png,train,"),
            "action is empty",
        ),
        (
            lambda root: edit(root / "faces/pairs_test.txt", "2\t2", "10\t300"),
            "its first line promises 6000",
        ),
        (
            lambda root: shutil.rmtree(root / "faces/test"),
            "test not there: give --faces and --actions prepared folders",
        ),
        (
            lambda root: (root / "actions/faces.csv").unlink(),
            "faces.csv not there: give --faces and --actions prepared folders",
        ),
        (
            lambda root: edit(root / "actions/annotations.csv", "x_min", "left"),
            "lacks the column(s) x_min",
        ),
    ],
)
def test_bad_photographs(photos, photo_args, capsys, spoil, sentence):
    spoil(photos)
    assert run(*photo_args) == 2
    error = capsys.readouterr().err
    assert sentence in error and "Traceback" not in error and error.startswith("ppad.reproduce: ")


def test_missing_photographs(tmp_path, capsys):
    assert (
        run(
            "--preset",
            "photo",
            "--faces",
            tmp_path / "nowhere",
            "--actions",
            tmp_path,
            "--out",
            tmp_path / "run",
        )
        == 2
    )
    assert "nowhere" in (error := capsys.readouterr().err) and "see the README" in error


# ------------------------------------------------------------------ kill -9


@pytest.mark.usefixtures("without_figures")
def test_killed_again_and_again_it_ends_as_if_nothing_had_happened(
    finished, copied, tmp_path, tiny_args
):
    """The same run, killed in A's start, in the game and in the attacker's training."""
    words = [*tiny_args, "--rows", "Ours", "--seed", "0"]
    assert run(*words, "--out", copied) == 0  # the unbroken run's numbers for this one row
    wanted = read(copied / "results.json")
    out = tmp_path / "killed"
    for folder in ("seed0/start/detector", "seed0/Ours", "seed0/Ours/retrained"):
        process = started_fork(words, out, f"{folder}/checkpoint.pt")
        process.kill()
        process.join()
        assert not (out / "results.json").exists()
    assert run(*words, "--checkpoint_seconds", 0, "--out", out) == 0
    got = read(out / "results.json")
    for results in (wanted, got):
        for key in (
            "minutes",
            "minutes_by_row",
            "core_minutes",
            "hardware",
            "config",
        ):  # config holds checkpoint_seconds
            del results[key]
    assert got == wanted
    logs = [
        [(line["stage"], line["step"]) for line in read_log(folder / "seed0/Ours/log.jsonl")]
        for folder in (finished, out)
    ]
    assert logs[0] == logs[1]
    assert not list(out.rglob(".*.part"))
