"""What several test files share: one thread, a tiny preset, tiny drawn sets, real data if any.

The tiny preset is the toy preset with every size and count as small as the networks accept, so that
the whole main job (all its stages, attackers and figures) takes seconds. Its numbers mean nothing;
its bookkeeping does.
"""

import os
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn
from torch.overrides import TorchFunctionMode

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # `pytest` alone, unlike `python -m pytest`, leaves the root out

from ppad import config, datasets, folders

TINY = {
    "face_size": 32,
    "modifier_width": 4,
    "modifier_blocks": 1,
    "recognizer_depth": 4,
    "recognizer_width": 4,
    "other_width": 4,
    "embedding": 16,
    "recognizer_height": 28,
    "recognizer_breadth": 24,
    "frame_height": 96,
    "frame_width": 96,
    "batch_faces": 4,
    "warmup_faces": 4,
    "batch_frames": 2,
    "train_identities": 6,
    "pictures_each": 4,
    "test_identities": 6,
    "test_pictures_each": 4,
    "train_frames": 10,
    "test_frames": 10,
    "test_pairs": 16,
    "folds": 2,
    "pretrain_recognizer_steps": 3,
    "pretrain_recognizer_batch": 4,
    "pretrain_modifier_steps": 2,
    "warmup_steps": 2,
    "modifier_exchange": False,
    "exchange_steps": 2,
    "pretrain_detector_steps": 2,
    "T1": 3,
    "T2": 2,
    "attack_steps": 3,
    "invert_steps": 2,
    "landmark_steps": 2,
    "log_every": 1,
    "sample_every": 2,
    "landmark_jitter": 1.0,
}  # jitter uses torch's global generator, so resuming its state is tested too


def pytest_configure(config):
    if not os.environ.get("PPAD_TEST_GPU"):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.set_num_threads(1)  # sums in one order: "bit for bit" must not depend on the machine
    config.addinivalue_line(
        "markers", "rubric(line, points=0, hint=''): graded by ppad.grade, see there"
    )
    config.addinivalue_line("markers", "gpu: runs on a GPU, and only with PPAD_TEST_GPU=1")


def pytest_collection_modifyitems(items):
    """Run either the tests that use a GPU or all others: these fork, which torch forbids once a
    GPU is in use."""
    wanted = bool(os.environ.get("PPAD_TEST_GPU"))
    reason = "not one for a GPU" if wanted else "needs a GPU and PPAD_TEST_GPU=1"
    for item in items:
        if (item.get_closest_marker("gpu") is not None) != wanted:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def tiny():
    """tiny(field=value, ...) -> the tiny preset with these fields changed."""
    return lambda **fields: config.build("toy", **{**TINY, **fields})


@pytest.fixture(scope="session")
def tiny_args():
    """The tiny preset as command line words."""
    return [
        "--jobs",
        "1",
        *(word for name, value in TINY.items() for word in (f"--{name}", str(value))),
    ]


@pytest.fixture(scope="session")
def tiny_faces():
    """Six drawn people, four pictures each, 32 px."""
    return datasets.toy_faces(0, range(6), 4, 32)


@pytest.fixture(scope="session")
def tiny_actions():
    """Ten drawn frames, 96 px, one of each action, each with a face."""
    actions = datasets.toy_actions(0, 10, 96, range(6))
    assert all(len(boxes) == 1 for boxes in actions.face_boxes)
    return actions


@pytest.fixture
def photos(tmp_path):
    """A folder of drawn pictures for the photo preset: 4 + 4 people, 6 + 4 frames."""
    root = tmp_path / "photos"
    world = datasets.ToyWorld(0)
    marks = [["file", *folders.POINT_COLUMNS]]
    notes = [["file", "split", "action", "width", "height", *folders.BOX_COLUMNS]]
    found = [["file", *folders.BOX_COLUMNS]]
    for person in range(8):
        folder = f"{'train' if person < 4 else 'test'}/P{person}"
        (root / "faces" / folder).mkdir(parents=True)
        for number in range(3):
            face = world.face(person, number, size=40)
            name = f"{folder}/P{person}_{number + 1:04d}.png"
            Image.fromarray(face.image).save(root / "faces" / name)
            marks.append([name, *(f"{value:.2f}" for value in face.landmarks.reshape(-1))])
    (root / "actions").mkdir()
    for number in range(10):
        scene = world.scene(number % 2, number % 8, number, size=96)
        name = f"{number}.png"
        Image.fromarray(scene.image).save(root / "actions" / name)
        notes.append(
            [
                name,
                "train" if number < 6 else "test",
                ("a", "b")[number % 2],
                96,
                96,
                *(f"{v:.2f}" for v in scene.box.reshape(-1)),
            ]
        )
        found.append([name, *(f"{value:.2f}" for value in scene.face_box)])
    for path, rows in (
        ("faces/landmarks.csv", marks),
        ("actions/annotations.csv", notes),
        ("actions/faces.csv", found),
    ):
        (root / path).write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
    pairs = [
        "2\t2",
        "P4\t1\t2",
        "P5\t1\t2",
        "P4\t1\tP5\t3",
        "P4\t2\tP5\t2",
        "P6\t1\t3",
        "P7\t1\t2",
        "P6\t1\tP7\t1",
        "P6\t2\tP7\t3",
    ]
    (root / "faces/pairs_test.txt").write_text("\n".join(pairs) + "\n")
    return root


@pytest.fixture
def photo_config(photos, tiny):
    """The tiny preset, reading all of `photos`."""
    return tiny(
        drawn=False,
        faces=str(photos / "faces"),
        actions=str(photos / "actions"),
        train_identities=0,
        pictures_each=0,
        train_frames=0,
        test_frames=0,
    )


@pytest.fixture
def faces(tiny_faces):
    return tiny_faces.batch(torch.tensor([0, 5, 10, 15]))  # pictures, landmarks, identities


@pytest.fixture
def frames(tiny_actions):
    return tiny_actions.batch(torch.tensor([0, 4]))  # frames, targets, face boxes


class UseOrder(TorchFunctionMode):
    """Collects parameters in the order of first use in a forward pass, whatever their names."""

    def __init__(self):
        super().__init__()
        self.parameters = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        for value in (*args, *(kwargs or {}).values()):
            if isinstance(value, nn.Parameter) and all(
                value is not known for known in self.parameters
            ):
                self.parameters.append(value)
        return function(*args, **(kwargs or {}))


@pytest.fixture(scope="session")
def use_order():
    return UseOrder


@pytest.fixture(scope="session")
def ppad_data():
    """The folder of real pictures that PPAD_DATA names; skips the test without one."""
    folder = os.environ.get("PPAD_DATA")
    if not folder:
        pytest.skip(
            "PPAD_DATA is not set: it names the folder with photo_pack/ in it (real pictures)"
        )
    if not (Path(folder) / "photo_pack").is_dir():
        pytest.skip(f"PPAD_DATA is {folder}, which has no photo_pack folder")
    return Path(folder)
