"""MTCNN: sizes and sums by hand, area averaging against torch's own, tables made with the same
weights.
"""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.ops import batched_nms, box_iou

from ppad import mtcnn
from ppad.mtcnn import (
    MTCNN,
    MTCNNConfig,
    bins,
    nms,
    overlap,
    resize_frames,
    resize_windows,
    squared,
    sum_table,
)


def data(*parts):
    """A path below $PPAD_DATA, or a skip that says what is missing."""
    path = Path(os.environ.get("PPAD_DATA", "data"), *parts)
    if not path.exists():
        pytest.skip(f"{path} is absent; PPAD_DATA must hold lfw/, photo_pack/ and weights/")
    return path


def table_of(path, delimiter):
    table = {}
    with open(path, newline="", encoding="utf-8") as f:
        for row in list(csv.reader(f, delimiter=delimiter))[1:]:
            if row[1] != "NONE":
                table.setdefault(row[0], []).append(torch.tensor([float(v) for v in row[2:]]))
    return table


@pytest.fixture(scope="module")
def model():
    folder = mtcnn.weights_folder()
    return MTCNN.load(folder if (folder / "onet.pt").is_file() else data("weights"))


@pytest.fixture(scope="module")
def lfw(model):
    """40 LFW pictures (40, 250, 250, 3), their table rows, and what is found in them."""
    table = table_of(data("lfw", "landmarks.tsv"), "\t")
    names = list(table)[::331][:40]
    frames = np.stack(
        [np.asarray(Image.open(data("lfw", "lfw-deepfunneled", n)).convert("RGB")) for n in names]
    )
    return frames, [table[n][0] for n in names], model.find(frames)


@pytest.mark.parametrize(
    "net, count", [(mtcnn.PNet, 6632), (mtcnn.RNet, 100178), (mtcnn.ONet, 389040)]
)
def test_parameter_counts(net, count):
    assert sum(p.numel() for p in net().parameters()) == count


def test_net_outputs_have_the_documented_shapes():
    prob, shift = mtcnn.PNet()(torch.zeros(2, 3, 12, 12))
    assert prob.shape == (2, 1, 1) and shift.shape == (2, 4, 1, 1)
    assert [t.shape for t in mtcnn.RNet()(torch.zeros(5, 3, 24, 24))] == [(5,), (5, 4)]
    assert [t.shape for t in mtcnn.ONet()(torch.zeros(5, 3, 48, 48))] == [(5,), (5, 4), (5, 10)]


def test_face_probability_is_the_softmax_of_the_second_class():
    logits = torch.randn(6, 2, 3)
    assert torch.allclose(mtcnn.face_probability(logits), logits.softmax(1)[:, 1])


def test_bins_by_hand():
    first, last = bins(5, 3)  # 5 pixels in 3 bins: [0, 5/3), [5/3, 10/3), [10/3, 5)
    assert first.tolist() == [0, 1, 3] and last.tolist() == [2, 4, 5]


@pytest.mark.parametrize("size", [(7, 9), (20, 30), (33, 50)])
def test_frames_are_resized_as_torch_averages_areas(size):
    frames = torch.randint(0, 256, (2, 20, 30, 3), dtype=torch.uint8)
    wanted = (F.adaptive_avg_pool2d(frames.permute(0, 3, 1, 2).double(), size) - 127.5) / 128
    assert torch.allclose(resize_frames(sum_table(frames), *size).double(), wanted, atol=1e-5)


def test_windows_are_resized_as_torch_averages_crops_of_the_right_frame():
    frames = torch.randint(0, 256, (3, 40, 50, 3), dtype=torch.uint8)
    boxes = torch.tensor(
        [[1, 1, 50, 40], [11, 6, 20, 35], [-7, 30, 12, 70], [48, 2, 60, 9]]
    ).float()
    frame = torch.tensor([2, 0, 1, 0])
    crops = [frames[2], frames[0, 5:35, 10:20], frames[1, 29:40, 0:12], frames[0, 1:9, 47:50]]
    got = resize_windows(sum_table(frames), frame, boxes, 24)
    for crop, window in zip(crops, got):
        wanted = (F.adaptive_avg_pool2d(crop.permute(2, 0, 1).double(), 24) - 127.5) / 128
        assert torch.allclose(window.double(), wanted, atol=1e-5)


def test_sums_that_wrap_round_still_give_right_means():
    table = sum_table(torch.full((1, 60, 60, 3), 200, dtype=torch.uint8))
    wrapped = table + (2**31 - 100_000)  # as below and right of 8 million white pixels
    assert wrapped.min() < 0 < wrapped.max()
    box = torch.tensor([[1.0, 1, 60, 60]])
    got = resize_windows(wrapped, torch.tensor([0]), box, 24), resize_frames(wrapped, 31, 17)
    assert all(torch.allclose(t, torch.tensor(72.5 / 128)) for t in got)


def test_squared_keeps_the_center():
    assert squared(torch.tensor([[10.0, 20, 30, 80]])).tolist() == [[-10, 20, 50, 80]]


def nms_by_loop(boxes, scores, threshold):
    def clash(i, j):
        w = min(boxes[i, 2], boxes[j, 2]) - max(boxes[i, 0], boxes[j, 0])
        h = min(boxes[i, 3], boxes[j, 3]) - max(boxes[i, 1], boxes[j, 1])
        area = [(b[2] - b[0]) * (b[3] - b[1]) for b in (boxes[i], boxes[j])]
        return max(w, 0) * max(h, 0) / min(area) > threshold

    kept = []
    for i in scores.argsort(descending=True).tolist():
        if not any(clash(i, j) for j in kept):
            kept.append(i)
    return kept


def random_boxes(seed, n):
    g = torch.Generator().manual_seed(seed)
    corner = torch.rand(n, 2, generator=g) * 60
    boxes = torch.cat([corner, corner + 5 + torch.rand(n, 2, generator=g) * 40], 1)
    return boxes, torch.rand(n, generator=g), torch.randint(3, (n,), generator=g)


@pytest.mark.parametrize("at_once", [256, 7])
@pytest.mark.parametrize("seed", range(5))
def test_nms_over_the_smaller_box_equals_a_plain_loop(seed, at_once, monkeypatch):
    monkeypatch.setattr(mtcnn, "BOXES_AT_ONCE", at_once)
    boxes, scores, _ = random_boxes(seed, 60)
    kept = nms(boxes, scores, 0.7, smaller=True)
    assert kept.tolist() == nms_by_loop(boxes, scores, 0.7)


@pytest.mark.parametrize("at_once", [256, 7])
@pytest.mark.parametrize("seed", range(5))
def test_nms_and_overlap_equal_torchvisions(seed, at_once, monkeypatch):
    monkeypatch.setattr(mtcnn, "BOXES_AT_ONCE", at_once)
    boxes, scores, group = random_boxes(seed, 300)
    assert torch.allclose(overlap(boxes, boxes[:9]), box_iou(boxes, boxes[:9]))
    assert nms(boxes, scores, 0.4).tolist() == batched_nms(boxes, scores, group * 0, 0.4).tolist()
    kept = nms(boxes, scores, 0.4, group)
    assert kept.tolist() == batched_nms(boxes, scores, group, 0.4).tolist()
    assert len(nms(boxes[:0], scores[:0], 0.4, group[:0])) == 0


def test_a_face_within_a_face_goes():
    boxes = torch.tensor([[0.0, 0, 99, 99], [40, 40, 49, 49]])  # IoU 0.01, but wholly inside
    assert nms(boxes, torch.tensor([0.9, 0.8]), 0.7, smaller=True).tolist() == [0]


def test_lfw_as_in_the_table(lfw):
    ious = []
    errors = []
    for row, answer in zip(*lfw[1:]):
        iou = box_iou(answer["boxes"], row[None, :4])[:, 0]
        assert len(iou) and iou.max() > 0.5
        ious.append(iou.max())
        errors.append((answer["landmarks"][iou.argmax()] - row[4:].view(5, 2)).norm(dim=1))
    assert torch.stack(ious).median() >= 0.95  # the table counts pixels from 1
    assert torch.cat(errors).median() <= 0.1


def test_boxes_are_continuous_coordinates(lfw):
    off = torch.stack([a["boxes"][0] - row[:4] for row, a in zip(*lfw[1:]) if len(a["boxes"]) == 1])
    assert torch.allclose(off.median(0).values, torch.tensor([-1.0, -1, 0, 0]), atol=0.05)


def test_batches_equal_single_frames(model, lfw, monkeypatch):
    frames = lfw[0][:6]
    monkeypatch.setitem(mtcnn.PIXELS_AT_ONCE, "cpu", 10**9)  # all six in one pass
    for frame, together in zip(frames, model.find(frames)):
        alone = model.find(frame[None])[0]
        for key in ("boxes", "scores", "landmarks"):
            assert torch.allclose(alone[key], together[key], atol=1e-2)


def test_a_padded_frame_moves_the_answer(model, lfw):
    frame = np.full((1, 331, 300, 3), 127, np.uint8)
    frame[0, 60:310, 40:290] = lfw[0][0]
    plain = model.find(lfw[0][:1])[0]
    moved = model.find(frame)[0]
    assert torch.allclose(
        moved["boxes"][0] - plain["boxes"][0], torch.tensor([40.0, 60, 40, 60]), atol=6
    )
    assert torch.allclose(
        moved["landmarks"][0] - plain["landmarks"][0], torch.tensor([40.0, 60]), atol=3
    )


def test_action_stills_as_in_the_table(model, monkeypatch):
    monkeypatch.setattr(model, "config", MTCNNConfig(min_face=12))  # as the table was made
    table = table_of(data("photo_pack", "actions", "faces.csv"), ",")
    hit = total = 0
    for name in list(table)[::45]:
        frame = np.asarray(Image.open(data("photo_pack", "actions", name)).convert("RGB"))
        wanted = torch.stack(table[name])[:, :4]
        iou = box_iou(model.find(frame[None])[0]["boxes"], wanted)
        hit = hit + int((iou > 0.5).any(0).sum() if len(iou) else 0)
        total = total + len(wanted)
    assert hit / total >= 0.98


def test_confirm_says_yes_to_faces_and_no_to_background(model, lfw):
    frames, rows, _ = lfw
    corner = torch.tensor([[0.0, 0, 60, 60]])  # far from the centerd face
    answers = model.confirm(frames, [torch.cat([row[None, :4], corner]) for row in rows])
    said = torch.stack([a["face"] for a in answers]).float().mean(0)
    assert said[0] >= 0.95 and said[1] <= 0.05
    errors = [(a["landmarks"][0] - row[4:].view(5, 2)).norm(dim=1) for a, row in zip(answers, rows)]
    assert torch.cat(errors).median() < 2


def test_confirm_keeps_count_and_order(model, lfw):
    boxes = [lfw[1][0][None, :4], torch.zeros(0, 4), lfw[1][2][None, :4].repeat(2, 1)]
    answers = model.confirm(lfw[0][:3], boxes)
    assert [len(a["face"]) for a in answers] == [1, 0, 2]
    assert answers[1]["landmarks"].shape == (0, 5, 2)
    assert torch.equal(answers[2]["scores"][0], answers[2]["scores"][1])


@pytest.mark.parametrize("size", [(1, 1), (11, 400), (19, 19), (64, 20)])
def test_tiny_frames_give_no_faces(size):
    answer = MTCNN().find(torch.zeros(2, *size, 3, dtype=torch.uint8))
    assert (
        len(answer) == 2
        and answer[0]["boxes"].shape[1:] == (4,)
        and answer[0]["landmarks"].shape[1:] == (5, 2)
    )


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((8, 8, 3), np.uint8),
        np.zeros((1, 8, 8, 3), np.float32),
        np.zeros((1, 3, 8, 8), np.uint8),
        np.zeros((1, 0, 8, 3), np.uint8),
        "frame.jpg",
    ],
)
def test_bad_frames_are_named(frames):
    with pytest.raises(ValueError, match="frames"):
        MTCNN().find(frames)


def test_bad_settings_and_missing_weights_are_named(tmp_path):
    with pytest.raises(ValueError, match="min_face"):
        MTCNN(MTCNNConfig(min_face=5))
    with pytest.raises(ValueError, match="factor"):
        MTCNN(MTCNNConfig(factor=1.0))
    with pytest.raises(ValueError, match="get_weights.py"):
        MTCNN.load(tmp_path)
    with pytest.raises(ValueError, match="boxes: 1 lists for 2 frames"):
        MTCNN().confirm(np.zeros((2, 40, 40, 3), np.uint8), [torch.zeros(0, 4)])


@pytest.mark.parametrize(
    "content",
    ["junk", {"weight": torch.zeros(3)}, [1, 2], {**mtcnn.PNet().state_dict(), "more": None}],
)
def test_damaged_weights_are_named(tmp_path, content):
    path = tmp_path / "pnet.pt"
    path.write_text(content) if isinstance(content, str) else torch.save(content, path)
    with pytest.raises(ValueError, match="pnet.pt, or they are damaged; .*weights.py") as caught:
        MTCNN.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_weights_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("PPAD_WEIGHTS", str(tmp_path))
    assert mtcnn.weights_folder() == tmp_path
