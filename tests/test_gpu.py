"""The game on a pretended GPU (tests/pretend_gpu.py): no mixed devices, no sync, the CPU's numbers.

Where there is a real one, a row runs there too.
"""

import json

import pytest
import torch
from pretend_gpu import OnGPU, PretendGPU

from ppad import crop_sampler, datasets, reproduce, trainer
from ppad.attackers import PlainRecognizer
from ppad.baselines import make_baseline
from ppad.mtcnn import MTCNN, MTCNNConfig
from ppad.players import aligned_crops, make_modifier, make_recognizer
from ppad.repainter import Anonymizer
from ppad.ssh import SSH, FaceFinder

# The device is called meta: the values do arrive.
pytestmark = pytest.mark.filterwarnings("ignore:.*to a meta parameter")
ROW = ("mAP", "verification_error", "structure")


@pytest.fixture(scope="module")
def row_on_cpu(tiny, tmp_path_factory):
    return make_row(tiny(), tmp_path_factory.mktemp("cpu"), "cpu", "Ours")


def make_row(config, folder, device, name):
    run = reproduce.SeedRun(config, folder, 0, torch.device(device))
    run.detector()
    run.controls()
    run.row(name)
    row = json.loads((folder / name / "row.json").read_text())
    return {**row, **json.loads((folder / "start.json").read_text())}


def test_the_pretended_gpu_refuses_and_counts():
    with PretendGPU() as gpu:
        there = torch.arange(4.0).to(gpu.device)
        here = torch.arange(4.0)
        assert isinstance(there * 2, OnGPU) and isinstance(torch.zeros(3, device=gpu.device), OnGPU)
        assert isinstance(there.view(2, 2)[0], OnGPU) and not isinstance(there.cpu(), OnGPU)
        with pytest.raises(RuntimeError, match="on the GPU and on the CPU"):
            there + here
        with pytest.raises(RuntimeError, match="on the GPU and on the CPU"):
            here[there.long()]
        before = len(gpu.waits)
        there.add_(1).mul_(torch.tensor(2.0))  # a single number may come from the CPU
        assert len(gpu.waits) == before
        assert (
            there.cpu().tolist() == [2, 4, 6, 8]
            and float(there.sum()) == 20
            and bool((there > 1).all())
        )
        there[there > 2]
        assert len(gpu.waits) == before + 4


@pytest.mark.parametrize(
    "changed", [{}, {"channels_last": True, "accumulate": 2, "checkpointing": True}]
)
def test_a_whole_row_runs_there_and_comes_to_the_cpus_numbers(tiny, tmp_path, row_on_cpu, changed):
    with PretendGPU() as gpu:
        row = make_row(tiny(**changed), tmp_path, gpu.device, "Ours")
    assert 0 <= row["mAP"] <= 1 and 0 <= row["verification_error"]["strongest"] <= 1
    if not changed:  # the others round otherwise, or draw otherwise
        assert {key: row[key] for key in (*ROW, "controls")} == {
            key: row_on_cpu[key] for key in (*ROW, "controls")
        }


@pytest.mark.parametrize("name", ["Blur(8x8)", "Masked", "Noise(0.3)", "Super-Pixel", "Edge"])
def test_every_baseline_runs_there(name, faces):
    anonymizer = make_baseline(name, seed=0)
    on_cpu = anonymizer(faces[0])
    with PretendGPU() as gpu:
        on_gpu = make_baseline(name, seed=0)(faces[0].to(gpu.device)).cpu()
    assert torch.equal(on_gpu, on_cpu)


@pytest.mark.parametrize("exchange", [False, True])
def test_neither_D_nor_M_waits_for_the_gpu(tiny, tiny_faces, tiny_actions, exchange):
    """A GPU works through a queue; reading a result before the queue is done leaves it idle."""
    config = tiny(modifier_exchange=exchange)
    with PretendGPU() as gpu:
        game = trainer.Game(
            config,
            make_recognizer(config, 6),
            None,
            make_modifier(config),
            gpu.device,
        )
        judge = PlainRecognizer(4, 16, 6).to(gpu.device)
        batch = tiny_faces.batch(
            torch.tensor([0, 5, 10, 15]), torch.tensor([True, False, True, False]), gpu.device
        )
        frames, _, boxes = tiny_actions.batch(torch.tensor([0, 4]), device=gpu.device)
        if exchange:
            game.exchange = trainer.Exchange(config, game.recognizer, tiny_faces, gpu.device)
            game.anonymizer.meet(game.exchange.reader.people, tiny_faces.landmarks)
        gpu.waits.clear()
        for _ in range(2):
            modified = game.anonymize(batch[0])
            game.update_recognizer(batch[0], modified, *batch[1:])
            game.update_modifier(batch[0], modified, *batch[1:])
            judge.loss(aligned_crops(*batch[:2], (28, 24)), batch[2])
            crop_sampler.repaint(frames, boxes, game.anonymizer)
            game.set_rates(1, 2)
    assert gpu.waits == []


def test_faces_are_found_and_repainted_there_as_on_the_cpu():
    pictures = list(datasets.toy_actions(0, 2, 128, range(2)).pictures.permute(0, 2, 3, 1).numpy())

    def found_and_repainted(device):
        torch.manual_seed(0)  # of MTCNN no weights ship: random ones, that find much
        mtcnn = MTCNN(MTCNNConfig(thresholds=(0.5, 0.5, 0.5))).to(device)
        finder = FaceFinder(mtcnn=mtcnn, ssh=SSH.load().to(device), rule="either")
        found = [{key: value.cpu() for key, value in one.items()} for one in finder.find(pictures)]
        anonymizer = Anonymizer.from_run(
            finder=lambda frames: [found[0]["boxes"][:3]] * len(frames), device=device
        )
        return found, anonymizer._paint(pictures[0], found[0]["boxes"][:3], range(3))

    boxes, repainted = found_and_repainted("cpu")
    with PretendGPU() as gpu:
        boxes_there, repainted_there = found_and_repainted(gpu.device)
    assert sum(len(one["boxes"]) for one in boxes) > 4 and (repainted != pictures[0]).any()
    assert all(
        torch.equal(one[key], other[key]) for one, other in zip(boxes, boxes_there) for key in one
    )
    assert (repainted == repainted_there).all()


@pytest.mark.gpu
@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"precision": "bf16", "channels_last": True, "fused": True},
        {"precision": "fp16", "accumulate": 2, "checkpointing": True},
    ],
)
def test_a_whole_row_runs_on_a_real_one(tiny, tmp_path, changed):
    for name in ("Ours", "Noise(0.3)"):
        row = make_row(tiny(**changed), tmp_path, "cuda", name)
        assert 0 <= row["mAP"] <= 1 and 0 <= row["verification_error"]["strongest"] <= 1
