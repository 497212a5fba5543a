"""FaceFinder: the rules on made-up detectors whose answers are known, then MTCNN's real verdict on
real pictures.
"""

import numpy as np
import pytest
import torch
from test_mtcnn import lfw, model  # fixtures  # noqa: F401

from ppad.ssh import FaceFinder

A = [10.0, 10, 30, 30]
B = [50.0, 50, 90, 90]
C = [100.0, 5, 120, 25]  # B is no face; C is SSH's doubtful one


class FakeSSH:
    def find(self, frames, score):
        boxes = torch.tensor([B, A, C])
        scores = torch.tensor([0.99, 0.9, 0.6])
        keep = scores > score
        return [{"boxes": boxes[keep], "scores": scores[keep]} for _ in frames]


class FakeMTCNN:
    """Finds a box beside A, and one of its own; confirms everything but B."""

    def find(self, frames):
        self.sizes = [*getattr(self, "sizes", []), tuple(frames.shape[:3])]
        boxes = torch.tensor([[11.0, 9, 31, 31], [0, 60, 20, 80]])
        return [
            {
                "boxes": boxes + f[0, 0, 0],
                "scores": torch.tensor([0.8, 0.95]),
                "landmarks": torch.ones(2, 5, 2),
            }
            for f in frames
        ]

    def confirm(self, frames, boxes):
        assert len(frames) == len(boxes)
        return [
            {
                "face": torch.tensor([b.tolist() != B for b in bs], dtype=torch.bool),
                "scores": torch.ones(len(bs)),
                "boxes": bs + 100,
                "landmarks": torch.full((len(bs), 5, 2), 2.0),
            }
            for bs in boxes
        ]


def find(rule, frames=np.zeros((2, 100, 130, 3), np.uint8)):
    return FaceFinder(FakeMTCNN(), FakeSSH(), rule).find(frames)


def test_paper_rule_keeps_confirmed_boxes_above_080():
    for answer in find("paper"):
        assert answer["boxes"].tolist() == [A]  # SSH's own box, not MTCNN's
        assert answer["scores"].tolist() == [pytest.approx(0.9)]
        assert torch.equal(answer["landmarks"], torch.full((1, 5, 2), 2.0))


def test_either_rule_keeps_what_one_of_them_finds():
    for answer in find("either"):
        assert answer["boxes"].tolist() == [
            B,
            [0, 60, 20, 80],
            [11, 9, 31, 31],
            C,
        ]  # by score; A is there once
        assert answer["landmarks"][:, 0, 0].tolist() == [2, 1, 1, 2]


def test_only_what_ssh_alone_finds_is_given_to_mtcnn():
    mtcnn = FakeMTCNN()
    asked = []
    confirm = mtcnn.confirm
    mtcnn.confirm = lambda frames, boxes: asked.extend(boxes) or confirm(frames, boxes)
    # One of another size: places still count.
    frames = [np.full((100 + 10 * (i == 4), 130, 3), i, np.uint8) for i in range(7)]
    answers = FaceFinder(mtcnn, FakeSSH(), "either").find(frames)
    assert [boxes.tolist() for boxes in asked] == [[B, C]] * 7
    for i, answer in enumerate(answers):
        boxes = answer["boxes"].tolist()
        assert [i, 60 + i, 20 + i, 80 + i] in boxes and B in boxes and C in boxes
        assert (answer["landmarks"][:, 0, 0] == 2).tolist() == [box in (B, C) for box in boxes]


def test_parts_alone():
    assert [a["boxes"].tolist() for a in find("mtcnn")] == [[[0, 60, 20, 80], [11, 9, 31, 31]]] * 2
    answer = find("ssh")[0]
    assert (
        answer["boxes"].tolist() == [B, A]
        and answer["landmarks"].isnan().all()
        and len(answer["landmarks"]) == 2
    )


def test_a_part_alone_does_not_need_the_other(monkeypatch, tmp_path):
    monkeypatch.setenv("PPAD_WEIGHTS", str(tmp_path))
    assert FaceFinder(ssh=FakeSSH(), rule="ssh").mtcnn is None
    assert FaceFinder(mtcnn=FakeMTCNN(), rule="mtcnn").ssh is None
    with pytest.raises(ValueError, match="get_weights.py"):
        FaceFinder(ssh=FakeSSH())


def test_frames_of_several_sizes_come_back_in_order():
    mtcnn = FakeMTCNN()
    frames = [np.full((40 + 10 * (i % 2), 60, 3), i, np.uint8) for i in range(5)]
    answers = FaceFinder(mtcnn, rule="mtcnn", ssh=FakeSSH()).find(frames)
    assert [a["boxes"].min().item() for a in answers] == [0, 1, 2, 3, 4]
    assert mtcnn.sizes == [(3, 40, 60), (2, 50, 60)]  # one pass for each size
    assert FaceFinder(mtcnn, FakeSSH()).find([]) == []


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="rule is 'all'"):
        FaceFinder(FakeMTCNN(), FakeSSH(), "all")
    for bad in (
        np.zeros((1, 8, 8, 3), np.float32),
        np.zeros((8, 8, 3), np.uint8),
        [np.zeros((8, 8, 4), np.uint8)],
    ):
        with pytest.raises(ValueError, match="frames are"):
            FaceFinder(FakeMTCNN(), FakeSSH()).find(bad)


def test_real_mtcnn_confirms_faces_and_drops_background(model, lfw):  # noqa: F811
    frames, rows, _ = lfw

    class Proposals:
        """SSH's part: the face of the table, moved and resized a little, and a corner of the
        picture.
        """

        def find(self, frames, score):
            move = torch.tensor([0.06, -0.05, 0.08, 0.04])
            found = [row[:4] + move * (row[2:4] - row[:2]).repeat(2) for row in rows]
            return [
                {
                    "boxes": torch.stack([b, torch.tensor([0.0, 0, 50, 50])]),
                    "scores": torch.tensor([0.9, 0.85]),
                }
                for b in found
            ]

    answers = FaceFinder(model, Proposals()).find(frames)
    assert np.mean([len(a["boxes"]) == 1 and a["boxes"][0, 0] > 20 for a in answers]) >= 0.9
    errors = [
        (a["landmarks"][0] - row[4:].view(5, 2)).norm(dim=1)
        for a, row in zip(answers, rows)
        if len(a["boxes"])
    ]
    assert torch.cat(errors).median() < 2
