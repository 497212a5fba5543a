"""The action detector: torchvision's Faster R-CNN, spoken to in this package's terms."""

import os
from pathlib import Path

import pytest
import torch
from torchvision.models import mobilenet_v2, resnet18

from ppad.detector import BODIES, IMAGENET_MEAN, IMAGENET_STD, LOSS_NAMES, ActionDetector, DetectorConfig


def scene(count=2, size=160):
    """Frames of flat colour, each with a bright box in the first `count - 1` and nobody in the last."""
    frames = torch.full((count, 3, size, size), -0.5)
    targets = []
    for index in range(count - 1):
        x, y, label = 20 + 30 * index, 10 + 10 * index, 1 + index
        frames[index, index % 3, y : y + 120, x : x + 80] = 0.8
        targets.append({"boxes": torch.tensor([[x, y, x + 80.0, y + 120.0]]), "labels": torch.tensor([label])})
    targets.append({"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)})
    return frames, targets


@pytest.fixture(scope="module")
def toy():
    torch.manual_seed(0)
    return ActionDetector(DetectorConfig("toy"))


def test_four_losses_and_gradient_to_frames(toy):
    toy.train()
    frames, targets = scene()
    frames.requires_grad_()
    losses = toy.losses(frames, targets)
    assert set(losses) == set(LOSS_NAMES)
    assert all(loss.ndim == 0 and loss.isfinite() for loss in losses.values())
    for name, loss in losses.items():  # each of the four must be able to teach the modifier
        (gradient,) = torch.autograd.grad(loss, frames, retain_graph=True)
        assert gradient[0].abs().sum() > 0, name


def test_frames_with_nobody_only(toy):
    toy.train()
    frames = torch.zeros(2, 3, 160, 160)
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}
    losses = toy.losses(frames, [empty, empty])
    assert losses["loss_box_reg"] == 0 and losses["loss_rpn_box_reg"] == 0
    assert losses["loss_classifier"] > 0 and losses["loss_objectness"] > 0


def test_toy_is_small():
    assert sum(p.numel() for p in ActionDetector(DetectorConfig("toy")).parameters()) <= 2_000_000


def test_toy_learns_two_boxes():
    torch.manual_seed(0)
    detector = ActionDetector(DetectorConfig("toy", classes=3))
    frames, targets = scene(3)
    optimizer = torch.optim.Adam(detector.parameters(), 1e-3)
    for _ in range(40):
        optimizer.zero_grad()
        sum(detector.losses(frames, targets).values()).backward()
        optimizer.step()
    found = detector.detect(frames)
    for index in (0, 1):
        assert found[index]["labels"][0] == targets[index]["labels"][0]
        assert found[index]["scores"][0] > 0.5
        assert (found[index]["boxes"][0] - targets[index]["boxes"][0]).abs().max() < 12
    assert (found[2]["scores"] < 0.5).all()


def test_detections_are_well_formed_and_modes_restored(toy):
    toy.train()
    toy.model.rpn.eval()  # a caller may hold one part still
    frames = torch.rand(2, 3, 120, 200, requires_grad=True) * 2 - 1
    before = {name: value.clone() for name, value in toy.state_dict().items()}
    found = toy.detect(frames)
    assert toy.training and toy.model.backbone.training and not toy.model.rpn.training
    toy.train()
    assert len(found) == 2
    for one in found:
        assert one["boxes"].shape == (len(one["scores"]), 4) and one["labels"].shape == one["scores"].shape
        assert not one["boxes"].requires_grad and not one["scores"].requires_grad
        assert (one["boxes"] >= 0).all() and (one["boxes"] <= torch.tensor([200.0, 120.0, 200.0, 120.0])).all()
        assert ((one["labels"] >= 1) & (one["labels"] <= 10)).all()
        assert (one["scores"].diff() <= 0).all()
    assert all(torch.equal(value, before[name]) for name, value in toy.state_dict().items())  # no statistics moved


def test_toy_frames_are_not_resized():
    detector = ActionDetector(DetectorConfig("toy"))
    frames = torch.rand(1, 3, 160, 160) * 2 - 1
    batch, _ = detector.model.transform(list(frames))
    torch.testing.assert_close(batch.tensors, frames / 0.5)


@pytest.mark.parametrize(
    "sizes, frame, resized",
    [
        ({}, (240, 320), (340, 453)),  # JHMDB
        ({"min_size": 600, "max_size": 800}, (360, 480), (600, 800)),  # DALY, 4:3
        ({"min_size": 600, "max_size": 800}, (360, 640), (450, 800)),  # DALY, 16:9: the long side decides
    ],
)
def test_range_and_size_of_what_the_body_sees(sizes, frame, resized):
    detector = ActionDetector(DetectorConfig("resnet18", **sizes))
    unit = torch.rand(3, 1, 1).expand(3, *frame)  # a flat picture in [0, 1]
    batch, _ = detector.model.transform([unit * 2 - 1])
    assert batch.image_sizes == [resized]
    expected = (unit[:, 0, 0] - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
    torch.testing.assert_close(batch.tensors[0, :, 10, 10], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("body", ["resnet18", "mobilenet_v2"])
def test_pyramid_bodies_train_and_detect(body):
    torch.manual_seed(0)
    detector = ActionDetector(DetectorConfig(body, classes=21, min_size=96, max_size=128))
    assert [len(sizes) for sizes in detector.model.rpn.anchor_generator.sizes] == {"resnet18": [1] * 5, "mobilenet_v2": [2] * 4}[body]
    frames, targets = scene()
    losses = detector.losses(frames, targets)
    sum(losses.values()).backward()
    assert set(losses) == set(LOSS_NAMES)
    assert all(p.grad is not None for p in detector.model.backbone.body.parameters())  # scratch: trained whole
    for one in detector.detect(frames):
        assert (one["boxes"] <= 160).all()  # in the frame's pixels, not the resized frame's
    assert detector.model.roi_heads.box_predictor.cls_score.out_features == 22


@pytest.mark.parametrize("body", ["resnet101", "resnet50", "resnet34"])
def test_other_resnets_can_be_built(body):
    with torch.device("meta"):  # shapes only: no memory, no initialisation
        detector = ActionDetector(DetectorConfig(body))
    blocks = {"resnet34": [3, 4, 6, 3], "resnet50": [3, 4, 6, 3], "resnet101": [3, 4, 23, 3]}[body]  # He et al. 2016
    assert [len(detector.model.backbone.body[f"layer{i}"]) for i in (1, 2, 3, 4)] == blocks


def make_file(model, path):
    torch.save(model.state_dict(), path)
    return str(path)


@pytest.mark.parametrize("body, build", [("resnet18", resnet18), ("mobilenet_v2", mobilenet_v2)])
def test_weights_file_is_used_and_frozen_as_said(body, build, tmp_path):
    model = build(weights=None)
    path = make_file(model, tmp_path / "weights.pth")
    detector = ActionDetector(DetectorConfig(body, weights=path, trainable_layers=2))
    loaded = detector.model.backbone.body.state_dict()
    source = {name.removeprefix("features."): value for name, value in model.state_dict().items()}
    assert loaded and all(torch.equal(value, source[name]) for name, value in loaded.items())
    learns = [name for name, p in detector.model.backbone.body.named_parameters() if p.requires_grad]
    top = {"resnet18": ("layer3.", "layer4."), "mobilenet_v2": ("14.", "15.", "16.", "17.", "18.")}[body]
    assert {name[: name.index(".") + 1] for name in learns} == set(top)
    # ImageNet's statistics must not drift in training.
    frames, targets = scene()
    mean = {name: value.clone() for name, value in loaded.items() if "running" in name}
    detector.losses(frames, targets)
    after = detector.model.backbone.body.state_dict()
    assert mean and all(torch.equal(after[name], value) for name, value in mean.items())


def test_real_mobilenet_file():
    path = Path(os.environ.get("PPAD_DATA", "data")) / "weights" / "mobilenet_v2-b0353104.pth"
    if not path.is_file():
        pytest.skip("set PPAD_DATA to the folder that holds weights/mobilenet_v2-b0353104.pth")
    detector = ActionDetector(DetectorConfig("mobilenet_v2", weights=str(path), min_size=96, max_size=128))
    frames, targets = scene()
    assert sum(detector.losses(frames, targets).values()).isfinite()


def test_wrong_weights_file(tmp_path):
    path = make_file(resnet18(weights=None), tmp_path / "resnet18.pth")
    with pytest.raises(ValueError, match="weights"):
        ActionDetector(DetectorConfig("resnet34", weights=path))


def one(boxes=((10.0, 10.0, 90.0, 130.0),), labels=(1,)):
    return [{"boxes": torch.tensor(boxes).reshape(-1, 4), "labels": torch.tensor(labels)}]


@pytest.mark.parametrize(
    "frames, targets, word",
    [
        (torch.zeros(1, 3, 160, 160), one(boxes=((10.0, 10.0, 10.0, 50.0),)), "without area"),
        (torch.zeros(1, 3, 160, 160), one(boxes=((50.0, 10.0, 20.0, 50.0),)), "without area"),
        (torch.zeros(1, 3, 160, 160), one(boxes=((10.0, 10.0, float("nan"), 50.0),)), "without area"),
        (torch.zeros(1, 3, 160, 160), one(boxes=((10.0, 10.0, 160.5, 50.0),)), "outside"),
        (torch.zeros(1, 3, 100, 160), one(boxes=((10.0, 10.0, 90.0, 130.0),)), "outside"),
        (torch.zeros(1, 3, 160, 160), one(boxes=((-1.0, 10.0, 60.0, 50.0),)), "outside"),
        (torch.zeros(1, 3, 160, 160), one(labels=(0,)), "background"),
        (torch.zeros(1, 3, 160, 160), one(labels=(11,)), "1 to 10"),
        (torch.zeros(1, 3, 160, 160), one(labels=(1.0,)), "integers"),
        (torch.zeros(1, 3, 160, 160), one(labels=(1, 2)), r"\(n, 4\)"),
        (torch.zeros(2, 3, 160, 160), one(), "one dict a frame"),
        (torch.full((1, 3, 160, 160), 255.0), one(), r"\[-1, 1\]"),
        (torch.full((1, 3, 160, 160), float("nan")), one(), r"\[-1, 1\]"),
        (torch.zeros(1, 3, 160, 160, dtype=torch.uint8), one(), "float"),
        (torch.zeros(3, 160, 160), one(), r"\(B, 3, H, W\)"),
        (torch.zeros(0, 3, 160, 160), [], "no frame"),
    ],
)
def test_bad_input_is_refused(toy, frames, targets, word):
    toy.train()
    with pytest.raises(ValueError, match=word):
        toy.losses(frames, targets)


def test_full_frame_box_is_accepted(toy):
    toy.train()
    assert sum(toy.losses(torch.zeros(1, 3, 160, 160), one(boxes=((0.0, 0.0, 160.0, 160.0),))).values()).isfinite()


def test_losses_need_training_mode(toy):
    toy.eval()
    with pytest.raises(RuntimeError, match="train"):
        toy.losses(torch.zeros(1, 3, 160, 160), one())


@pytest.mark.parametrize(
    "settings, word",
    [
        ({"body": "vgg16"}, "body"),
        ({"classes": 0}, "classes"),
        ({"body": "toy", "weights": "x.pth"}, "weights"),
        ({"min_size": 600, "max_size": 400}, "min_size"),
    ],
)
def test_bad_settings_are_refused(settings, word):
    with pytest.raises(ValueError, match=word):
        DetectorConfig(**settings)


def test_config_defaults_follow_the_paper():
    config = DetectorConfig()
    assert (config.body, config.min_size, config.classes) == ("resnet101", 340, 10)
    assert set(BODIES) == {"resnet18", "resnet34", "resnet50", "resnet101", "mobilenet_v2", "toy"}
