"""SSH: sizes and grids by hand, coding and mining against loops, a small training, and weights."""

import csv
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.ops import box_iou

sys.path.insert(0, str(Path(__file__).parents[1] / "data_scripts"))

import train_ssh
from train_ssh import Scenes, match_anchors, mine_hard, shifts_to, ssh_loss, train_light

from ppad import ssh
from ppad.ssh import SSH, anchors_for, shifted


def conv(i, o, k=3):
    return i * o * k * k + o


def module(i, w):
    half = w // 2
    return conv(i, w) + conv(i, half) + 3 * conv(half, half) + conv(2 * w, 4, 1) + conv(2 * w, 8, 1)


@pytest.fixture(scope="module")
def vgg():
    torch.manual_seed(0)
    return SSH("vgg16").eval()


def test_vgg_form_has_the_published_size(vgg):
    model = vgg
    heads = 2 * conv(512, 128, 1) + conv(128, 128) + module(128, 128) + 2 * module(512, 256)
    assert (
        sum(p.numel() for p in model.parameters()) == 14_714_688 + heads
    )  # VGG-16 up to conv5_3, and the heads
    frozen = [p.numel() for p in model.parameters() if not p.requires_grad]
    assert sum(frozen) == conv(3, 64) + conv(64, 64) + conv(64, 128) + conv(
        128, 128
    )  # conv1 and conv2
    heads = [m.a.weight for m in (model.m1, model.m2, model.m3)] + [
        model.join.weight,
        model.m2.score.weight,
    ]
    assert all(abs(w.std() - 0.01) < 0.001 and abs(w.mean()) < 0.001 for w in heads)


def test_light_form_is_small_and_of_the_same_modules(vgg):
    light = SSH("light")
    full = vgg
    assert sum(p.numel() for p in light.parameters()) <= 1_500_000
    assert [n for n, _ in light.m1.named_parameters()] == [n for n, _ in full.m1.named_parameters()]


@pytest.mark.parametrize(
    "body, size", [("light", (64, 96)), ("light", (50, 70)), ("light", (1, 1)), ("vgg16", (40, 64))]
)
def test_outputs_and_anchors_agree(body, size, vgg):
    logits, shifts = (vgg if body == "vgg16" else SSH().eval())(
        torch.zeros(2, *size, 3, dtype=torch.uint8)
    )
    anchors, modules = anchors_for(*size)
    assert (
        logits.shape == (2, len(anchors), 2)
        and shifts.shape == (2, len(anchors), 4)
        and len(modules) == len(anchors)
    )


def test_anchors_by_hand():
    anchors, modules = anchors_for(32, 64)  # M1: 4x8 cells, M2: 2x4, M3: 1x2
    assert [int((modules == m).sum()) for m in range(3)] == [64, 16, 4]
    assert anchors[:3].tolist() == [[-4, -4, 12, 12], [-12, -12, 20, 20], [4, -4, 20, 12]]
    assert anchors[64].tolist() == [8 - 32, 8 - 32, 8 + 32, 8 + 32]
    assert anchors[-1].tolist() == [48 - 256, 16 - 256, 48 + 256, 16 + 256]


def test_outputs_come_in_the_order_of_the_anchors():
    """Anchor (row, col, a) of a module reads channels 2a, 2a+1 and 4a..4a+3 of its cell."""
    torch.manual_seed(0)
    module = ssh.DetectionModule(8, 16)
    seen = []
    for layer in (module.score, module.box):
        layer.register_forward_hook(lambda layer, args, out: seen.append(out))
    logits, shifts = module(torch.randn(2, 8, 5, 7))
    for row, col, a in ((0, 0, 0), (0, 1, 1), (3, 6, 0), (4, 2, 1)):
        place = (row * 7 + col) * 2 + a
        assert torch.equal(logits[1, place], seen[0][1, 2 * a : 2 * a + 2, row, col])
        assert torch.equal(shifts[1, place], seen[1][1, 4 * a : 4 * a + 4, row, col])


def test_shifts_come_back_and_match_a_hand_case():
    anchors = torch.tensor([[0.0, 0, 16, 16], [8, 8, 40, 40]])
    boxes = torch.tensor([[4.0, 0, 20, 32], [8, 8, 40, 40]])
    shifts = shifts_to(anchors, boxes)
    assert torch.allclose(shifts[0], torch.tensor([0.25, 0.5, 0, np.log(2)], dtype=torch.float))
    assert torch.allclose(shifted(anchors, shifts), boxes)
    assert torch.equal(shifts[1], torch.zeros(4))


def test_labels_by_hand():
    anchors = torch.tensor(
        [[0.0, 0, 16, 16], [0, 0, 16, 8.0], [0, 0, 16, 6.4], [100, 100, 116, 116], [0, 0, 8, 8]]
    )
    labels, which = match_anchors(anchors, torch.tensor([[0.0, 0, 16, 16], [110, 110, 118, 118]]))
    assert labels.tolist() == [
        1,
        1,
        -1,
        1,
        0,
    ]  # IoU 1, 0.5, 0.4, the second face's best (0.13), 0.25
    assert which[[0, 1, 3]].tolist() == [0, 0, 1]
    assert match_anchors(anchors, torch.zeros(0, 4))[0].tolist() == [0] * 5


def test_mining_takes_the_hardest():
    labels = torch.tensor([1] * 100 + [0] * 500 + [-1] * 20)
    score = torch.rand(620)
    positive, negative = mine_hard(labels, score)
    assert len(positive) == 64 and len(negative) == 192  # 25 % of 256
    assert set(positive.tolist()) == set(sorted(range(100), key=lambda i: score[i])[:64])
    assert set(negative.tolist()) == set(sorted(range(100, 600), key=lambda i: -score[i])[:192])
    positive, negative = mine_hard(torch.tensor([1, 0, 0, -1]), torch.rand(4))
    assert positive.tolist() == [0] and sorted(negative.tolist()) == [1, 2]


def test_loss_of_one_face_by_hand():
    anchors, modules = anchors_for(32, 32)
    face = anchors[[20]]  # an anchor of M1 exactly
    logits = torch.zeros(1, len(anchors), 2)
    shifts = torch.zeros(1, len(anchors), 4)
    assert torch.isclose(
        ssh_loss(logits, shifts, anchors, modules, [face]), torch.tensor(3 * np.log(2)).float()
    )
    shifts[0, 20, 0] = 1.0  # smooth L1: 1 - beta / 2
    positives = match_anchors(anchors, face)[0] == 1
    assert positives.sum() == 1
    wanted = 3 * np.log(2) + 1 - train_ssh.SMOOTH_L1_BETA / 2
    assert torch.isclose(
        ssh_loss(logits, shifts, anchors, modules, [face]), torch.tensor(wanted).float()
    )


def test_loss_of_empty_pictures_has_a_gradient():
    anchors, modules = anchors_for(64, 64)
    logits = torch.zeros(2, len(anchors), 2, requires_grad=True)
    ssh_loss(
        logits, torch.zeros(2, len(anchors), 4), anchors, modules, [torch.zeros(0, 4)] * 2
    ).backward()
    assert (
        logits.grad[..., 1].min() >= 0 and logits.grad[..., 1].max() > 0
    )  # faces are pushed down only


def four(size=64):
    """Four drawn pictures, each with a disc as a face with two eyes, on noise."""
    rng = np.random.default_rng(3)
    drawn = []
    y, x = np.mgrid[:size, :size] + 0.5
    for share in ((0.25, 0.3, 0.12), (0.6, 0.4, 0.2), (0.5, 0.5, 0.35), (0.7, 0.7, 0.16)):
        cx, cy, r = (size * part for part in share)
        frame = rng.integers(0, 90, (size, size, 3))
        frame[(x - cx) ** 2 + (y - cy) ** 2 < r * r] = (220, 180, 150)
        for ex in (cx - r / 3, cx + r / 3):
            frame[(x - ex) ** 2 + (y - cy + r / 4) ** 2 < (r / 6) ** 2] = 20
        drawn.append(
            (frame.astype(np.uint8), np.array([[cx - r, cy - r, cx + r, cy + r]], np.float32))
        )
    return drawn


@pytest.fixture(scope="module")
def learned():
    pictures = four()
    turn = iter(range(10**6))
    lines = []
    model = train_light(
        lambda rng, size: pictures[next(turn) % 4],
        steps=200,
        batch=4,
        size=64,
        lr=4e-3,
        log=lines.append,
    )
    return model, pictures, lines


def test_training_learns_four_pictures(learned):
    model, pictures, lines = learned
    losses = [float(line.split()[-1]) for line in lines]
    assert losses[-1] < 0.1 * losses[0]
    for answer, (_, boxes) in zip(
        model.find(np.stack([f for f, _ in pictures]), score=0.5), pictures
    ):
        assert len(answer["boxes"]) >= 1
        assert box_iou(answer["boxes"][:1], torch.tensor(boxes)).item() > 0.7


def test_found_boxes_are_inside_suppressed_and_sorted(learned):
    model, pictures, _ = learned
    for answer in model.find(np.stack([f[:60] for f, _ in pictures]), score=0.01):
        boxes = answer["boxes"]
        scores = answer["scores"]
        assert (boxes >= 0).all() and (boxes[:, 2] <= 64).all() and (boxes[:, 3] <= 60).all()
        assert (box_iou(boxes, boxes).triu(1) <= ssh.TEST_NMS + 1e-6).all()
        assert torch.equal(scores, scores.sort(descending=True).values) and (scores > 0.01).all()


def test_batches_equal_single_frames(learned, monkeypatch):
    model, pictures, _ = learned
    frames = np.stack([f for f, _ in pictures])
    together = model.find(frames, 0.3)
    monkeypatch.setitem(ssh.PIXELS_AT_ONCE, "cpu", 1)
    for one, other in zip(model.find(frames, 0.3), together):
        assert torch.allclose(one["boxes"], other["boxes"], atol=1e-3)


def test_saved_weights_come_back(learned, tmp_path):
    model, pictures, _ = learned
    model.save(tmp_path / "ssh.pt")
    assert [p.name for p in tmp_path.iterdir()] == ["ssh.pt"] and (
        tmp_path / "ssh.pt"
    ).stat().st_size < 6e6
    again = SSH.load(tmp_path / "ssh.pt")
    frame = pictures[0][0][None]
    assert torch.equal(again.find(frame)[0]["boxes"], model.find(frame)[0]["boxes"])


def test_the_rate_falls_with_the_clock_and_the_model_is_kept(monkeypatch):
    """`minutes` ends a run of many steps; here every call of the clock is 6 s later."""
    pictures = four()
    clock = iter(range(0, 10**6, 6))
    kept = []
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    lines = []
    train_light(
        lambda rng, size: pictures[0],
        steps=10**6,
        batch=1,
        size=64,
        minutes=1,
        bfloat16=True,
        keep=lambda model: kept.append(model.kind),
        log=lines.append,
    )
    assert 1 <= len(lines) <= 10 and kept == ["light"]


def test_half_precision_files_load_and_find_the_same(learned, tmp_path):
    model, pictures, _ = learned
    half = SSH()
    half.load_state_dict(model.state_dict())
    half.half().save(tmp_path / "half.pt")
    again = SSH.load(tmp_path / "half.pt")
    frame = pictures[2][0][None]
    assert again.fine.weight.dtype == torch.float32
    assert torch.allclose(
        again.find(frame, 0.5)[0]["boxes"][0], model.find(frame, 0.5)[0]["boxes"][0], atol=0.5
    )


# ---------------------------------------------------------------- shipped weights


@pytest.fixture(scope="module")
def shipped():
    path = Path(ssh.__file__).parent / "weights" / "ssh_light.pt"
    if not path.is_file():
        pytest.skip(f"no light SSH weights at {path}: run data_scripts/train_ssh.py")
    assert path.stat().st_size <= 6_000_000
    return SSH.load()


def test_shipped_weights_load_and_see_no_face_in_noise(shipped):
    model = shipped
    assert model.kind == "light" and not model.training
    noise = np.random.default_rng(0).integers(0, 256, (2, 96, 128, 3)).astype(np.uint8)
    assert all(len(answer["boxes"]) == 0 for answer in model.find(noise, score=0.5))


def test_folded_batch_norms_change_nothing(shipped):
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 96, 128, 3), np.uint8))
    with torch.inference_mode():
        expected = shipped(frames)
        folded = SSH.load().fold_batch_norm()
        for one, other in zip(folded(frames), expected):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    assert not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in folded.modules())


def test_shipped_weights_find_real_faces(ppad_data, shipped):
    """The first 20 LFW people of the test half, pasted on gray; nothing was trained on them."""
    table = ppad_data / "lfw" / "landmarks.tsv"
    lfw = ppad_data / "lfw" / "lfw-deepfunneled"
    if not table.is_file():
        pytest.skip(f"PPAD_DATA has no {table.relative_to(ppad_data)}")
    boxes = train_ssh.read_boxes(table)
    model = shipped
    found = 0
    people = sorted((ppad_data / "photo_pack" / "faces" / "test").iterdir())[:20]
    for name in (f"{person.name}/{min(person.iterdir()).stem}.jpg" for person in people):
        frame = np.full((320, 384, 3), 128, np.uint8)
        frame[40:290, 90:340] = np.asarray(Image.open(lfw / name).convert("RGB"))
        truth = torch.tensor(boxes[name][:1]) + torch.tensor([90, 40, 90, 40])
        answer = model.find(frame[None], score=0.5)[0]["boxes"]
        found += bool((box_iou(answer, truth) >= 0.5).any())
    assert found >= 19


def write_data(root):
    """A small data folder: two training stills, one test still, faces of both halves."""
    actions = root / "photo_pack" / "actions"
    lfw = root / "lfw"
    for folder in (
        actions,
        lfw / "lfw-deepfunneled" / "A",
        lfw / "lfw-deepfunneled" / "B",
        root / "photo_pack" / "faces" / "train" / "1",
        root / "photo_pack" / "faces" / "test" / "B",
    ):
        folder.mkdir(parents=True)
    frame, box = four(160)[1]
    picture = Image.fromarray(frame)
    row = ["0.99", *map(str, box[0])]
    for name in ("s1.png", "s2.png", "s3.png"):
        picture.save(actions / name)
    picture.save(lfw / "lfw-deepfunneled" / "A" / "A_0001.jpg")
    picture.save(lfw / "lfw-deepfunneled" / "B" / "B_0001.jpg")
    picture.save(root / "photo_pack" / "faces" / "test" / "B" / "B_0001.webp")
    picture.save(root / "photo_pack" / "faces" / "train" / "1" / "1.webp")
    columns = ["file", "score", "x_min", "y_min", "x_max", "y_max"]

    def write(path, delimiter, rows):
        with open(path, "w", newline="") as f:
            csv.writer(f, delimiter=delimiter).writerows(rows)

    write(
        actions / "annotations.csv",
        ",",
        [["file", "split"], ["s1.png", "train"], ["s2.png", "train"], ["s3.png", "test"]],
    )
    write(actions / "faces.csv", ",", [columns, ["s1.png", *row], ["s3.png", *row]])
    write(
        lfw / "landmarks.tsv",
        "\t",
        [columns, ["A/A_0001.jpg", *row], ["B/B_0001.jpg", *row], ["C/C.jpg", *["NONE"] * 5]],
    )


def test_people_of_the_test_half_are_not_trained_on(tmp_path):
    """Another picture of a test person is left out too."""
    write_data(tmp_path)
    with open(tmp_path / "lfw" / "landmarks.tsv", "a") as f:
        f.write("\t".join(["B/B_0002.jpg", "0.99", "1", "1", "9", "9"]) + "\n")
    assert [p.name for p, _ in Scenes(tmp_path).faces] == ["A_0001.jpg", "1.webp"]


def test_scenes_keep_the_test_half_out_and_draw_boxes_in_view(tmp_path):
    write_data(tmp_path)
    scenes = Scenes(tmp_path)
    assert [p.name for p, _ in scenes.stills] == ["s1.png", "s2.png"]
    assert [p.name for p, _ in scenes.faces] == ["A_0001.jpg", "1.webp"]
    rng = np.random.default_rng(0)
    counts = []
    for _ in range(40):
        frame, boxes = scenes(rng, 128)
        assert frame.shape == (128, 128, 3) and frame.dtype == np.uint8 and boxes.shape[1:] == (4,)
        assert (boxes >= 0).all() and (boxes <= 128).all() and (boxes[:, 2:] > boxes[:, :2]).all()
        counts.append(len(boxes))
    assert min(counts) == 0 and max(counts) >= 2  # negatives and several faces both occur


def test_pasting_moves_boxes_with_pixels_and_hides_no_face_in_part():
    canvas = Image.new("RGB", (100, 100))
    white = Image.fromarray(np.full((40, 20, 3), 255, np.uint8))
    none = np.zeros((0, 4), np.float32)
    box = np.array([[5, 10, 15, 30]], np.float32)
    boxes = train_ssh.paste(canvas, white, 2.0, (30, 10), box, none)
    assert boxes.tolist() == [[40, 30, 60, 70]]
    assert (
        np.asarray(canvas)[10:90, 30:70].min() == 255
        and np.asarray(canvas).sum() == 255 * 3 * 80 * 40
    )
    assert (
        train_ssh.paste(canvas, white, 1.0, (50, 20), box, boxes).tolist() == boxes.tolist()
    )  # would half hide it
    assert train_ssh.paste(canvas, white, 2.0, (92, 10), box, none).tolist() == []  # out of view


def test_training_from_the_command_line(tmp_path, capsys):
    write_data(tmp_path)
    out = tmp_path / "w.pt"
    options = ["--steps", "2", "--batch", "2", "--size", "64", "--device", "cpu"]
    train_ssh.main(["--train", str(tmp_path), "--out", str(out), *options])
    assert "step 1 loss" in capsys.readouterr().out
    assert SSH.load(out).kind == "light"


@pytest.mark.parametrize(
    "words, said",
    [
        (["--train", "nowhere"], "annotations.csv is missing; give --train the folder"),
        (["--device", "gpu"], "device is 'gpu': use cpu"),
        (["--steps", "0"], "--steps is 0; give 1 or more"),
        (["--batch", "0"], "--batch is 0; give 1 or more"),
        (["--size", "8"], "--size is 8; give 32 or more"),
        (["--seed", "-1"], "--seed is -1; give 0 or more"),
        (["--lr", "nan"], "--lr is nan; give a number above 0"),
        (["--minutes", "0"], "--minutes is 0.0; give a number above 0"),
        (["--out", "lfw"], "--out lfw is there already; give another name"),
        (["--out", "lfw/landmarks.tsv/w.pt"], "landmarks.tsv"),
    ],
)
def test_training_mistakes_end_in_one_sentence(tmp_path, capsys, monkeypatch, words, said):
    write_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(train_ssh, "train_light", lambda draw, **args: pytest.fail("it began"))
    words = ["--train", ".", "--out", "w.pt", "--device", "cpu", *words]
    assert train_ssh.run(train_ssh.main, words) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "table, old, new, said",
    [
        ("photo_pack/actions/annotations.csv", "file,", "name,", "lacks the column(s) file"),
        ("photo_pack/actions/annotations.csv", "train", "val", "lists no picture to train on"),
        ("photo_pack/actions/faces.csv", "0.99,", "0.99,,", "line 2"),
        ("photo_pack/actions/s1.png", "PNG", "GNP", "s1.png: cannot be read as a picture"),
    ],
)
def test_training_data_that_cannot_be_used_are_named(tmp_path, capsys, table, old, new, said):
    write_data(tmp_path)
    content = (tmp_path / table).read_bytes().replace(old.encode(), new.encode())
    (tmp_path / table).write_bytes(content)
    words = ["--train", str(tmp_path), "--out", str(tmp_path / "w.pt"), "--device", "cpu"]
    assert train_ssh.run(train_ssh.main, [*words, "--steps", "4", "--size", "64"]) == 2
    assert said in capsys.readouterr().err


def test_training_tables_may_be_as_excel_writes_them(tmp_path):
    """With a byte order mark, and lines that end as Windows' do."""
    write_data(tmp_path)
    table = tmp_path / "photo_pack" / "actions" / "annotations.csv"
    table.write_text(table.read_text(), encoding="utf-8-sig", newline="\r\n")
    assert [p.name for p, _ in Scenes(tmp_path).stills] == ["s1.png", "s2.png"]


def test_a_stopped_training_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    def stops(draw, **args):
        raise KeyboardInterrupt

    write_data(tmp_path)
    monkeypatch.setattr(train_ssh, "train_light", stops)
    words = ["--train", str(tmp_path), "--out", str(tmp_path / "w.pt"), "--device", "cpu"]
    assert train_ssh.run(train_ssh.main, words, stopped=train_ssh.STOPPED) == 130
    assert "are in --out; start again with another --out" in capsys.readouterr().err


@pytest.mark.parametrize(
    "frames",
    [np.zeros((8, 8, 3), np.uint8), np.zeros((1, 8, 8, 3)), np.zeros((1, 0, 8, 3), np.uint8)],
)
def test_bad_frames_are_named(frames):
    with pytest.raises(ValueError, match="frames"):
        SSH().find(frames)


def test_bad_body_missing_weights_and_data_are_named(tmp_path):
    with pytest.raises(ValueError, match="body is 'resnet'"):
        SSH("resnet")
    with pytest.raises(ValueError, match="--train"):
        SSH.load(tmp_path / "none.pt")
    for content in ({"body": "light", "weights": {}}, {"body": "resnet"}, [1]):
        torch.save(content, tmp_path / "other.pt")
        with pytest.raises(ValueError, match="other.pt, or they are damaged: restore the file"):
            SSH.load(tmp_path / "other.pt")
    with pytest.raises(ValueError, match="data:"):
        Scenes(tmp_path)


def test_a_loss_that_blows_up_stops():
    frame = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    bad = np.array([[8, 8, 8, 40]], np.float32)  # no width: the log of it is infinite
    with pytest.raises(ValueError, match="lr"):
        train_light(
            lambda rng, size: (frame, bad), steps=2, batch=1, size=64, log=lambda line: None
        )
