"""The action detector: torchvision's Faster R-CNN, spoken to in this package's terms."""

import os
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models import mobilenet_v2, resnet18, resnet101
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import box_iou

from ppad import detector as module
from ppad.detector import (
    BODIES,
    C4_ANCHORS,
    IMAGENET_MEAN,
    IMAGENET_STD,
    LOSS_NAMES,
    ActionDetector,
    DetectorConfig,
    MobileBody,
)


def scene(count=2, size=160):
    """Frames of flat color: a bright box in each of the first `count - 1`, nobody in the last."""
    frames = torch.full((count, 3, size, size), -0.5)
    targets = []
    for index in range(count - 1):
        x = 20 + 30 * index
        y = 10 + 10 * index
        label = 1 + index
        frames[index, index % 3, y : y + 120, x : x + 80] = 0.8
        targets.append(
            {"boxes": torch.tensor([[x, y, x + 80.0, y + 120.0]]), "labels": torch.tensor([label])}
        )
    targets.append({"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)})
    return frames, targets


@pytest.fixture(scope="module")
def toy():
    torch.manual_seed(0)
    return ActionDetector(DetectorConfig("toy"))


@pytest.mark.rubric(
    "L_det is four losses, and each teaches the frames",
    points=4,
    hint="return all four by torchvision's names; a detach or no_grad on the frames leaves M "
    "without L_det; the caller's targets are not changed in place",
)
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


@pytest.mark.rubric("L_det is four losses, and each teaches the frames")
def test_the_callers_targets_stay_as_they_are(toy):
    toy.train()
    frames, _ = scene(1)
    targets = one(boxes=((0.0, 0.4, 120.7, 160.0),))
    boxes = targets[0]["boxes"]
    toy.losses(frames, targets)
    assert targets[0]["boxes"] is boxes
    assert torch.equal(boxes, torch.tensor([[0.0, 0.4, 120.7, 160.0]]))


def test_boxes_are_whole_in_half_precision(toy, monkeypatch):
    """bf16 has steps of 1 px from 128 on, and torchvision would round the true boxes to them."""
    toy.train()
    frames, targets = scene()
    targets[0]["boxes"] = torch.tensor([[20.3, 20.4, 130.7, 150.6]])
    taught = []
    roi = toy.model.roi_heads
    encode = roi.box_coder.encode

    def watched(truths, proposals):
        taught.extend([*truths, *proposals])
        return encode(truths, proposals)

    monkeypatch.setattr(roi.box_coder, "encode", watched)
    with torch.autocast("cpu", torch.bfloat16):
        losses = toy.losses(frames, targets)
    assert all(loss.isfinite() for loss in losses.values())
    assert all(boxes.dtype == torch.float32 for boxes in taught)
    assert any(torch.equal(box, targets[0]["boxes"][0]) for box in taught[0])


@pytest.mark.rubric(
    "background is class 0, actions count from 1",
    points=3,
    hint="background is one class more: the box predictor has classes + 1 outputs, and labels 1 "
    "... classes go in and come out unshifted; 0 is no action",
)
def test_background_is_class_0_and_the_last_action_can_be_learned(toy):
    toy.train()
    frames, targets = scene()
    for label in (1, 10):  # 10 actions and background are 11 classes
        targets[0]["labels"] = torch.tensor([label])
        assert toy.losses(frames, targets)["loss_classifier"].isfinite()
    targets[0]["labels"] = torch.tensor([0])
    with pytest.raises(ValueError):
        toy.losses(frames, targets)


@pytest.mark.rubric("L_det is four losses, and each teaches the frames")
def test_frames_with_nobody_only(toy):
    toy.train()
    frames = torch.zeros(2, 3, 160, 160)
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}
    losses = toy.losses(frames, [empty, empty])
    assert losses["loss_box_reg"] == 0 and losses["loss_rpn_box_reg"] == 0
    assert losses["loss_classifier"] > 0 and losses["loss_objectness"] > 0


@pytest.mark.rubric(
    "a small detector learns boxes and actions",
    points=4,
    hint="the toy has at most two million weights; losses and detect must see the same picture, "
    "and labels must come out as they went in",
)
def test_toy_is_small():
    assert sum(p.numel() for p in ActionDetector(DetectorConfig("toy")).parameters()) <= 2_000_000


@pytest.mark.rubric("a small detector learns boxes and actions")
def test_toy_learns_two_boxes():
    torch.manual_seed(0)
    detector = ActionDetector(DetectorConfig("toy", classes=2))
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
        assert box_iou(found[index]["boxes"][:1], targets[index]["boxes"]) > 0.5
    assert (found[2]["scores"] < 0.5).all()


@pytest.mark.rubric(
    "detect changes nothing and is well formed",
    points=2,
    hint="detect runs in evaluation mode and puts each module back into the mode it was in; "
    "batch-norm's buffers must not move; no gradient; boxes come back in the frame's own "
    "pixels, not the resized frame's; best score first; all detections, not one a frame, and no "
    "score threshold of your own: torchvision's stays, and so does its non-maximum suppression at "
    "an IoU of 0.5",
)
def test_detections_are_well_formed_and_modes_restored(toy):
    toy.train()
    *_, part = toy.modules()
    part.eval()  # a caller may hold one part still
    # The network sees them enlarged
    frames = torch.rand(2, 3, 120, 100, requires_grad=True) * 2 - 1
    before = {name: value.clone() for name, value in toy.state_dict().items()}
    found = toy.detect(frames)
    assert all(module.training == (module is not part) for module in toy.modules())
    toy.train()
    assert len(found) == 2 and sum(len(one["boxes"]) for one in found) > 0
    for one in found:
        assert (
            one["boxes"].shape == (len(one["scores"]), 4)
            and one["labels"].shape == one["scores"].shape
        )
        assert not one["boxes"].requires_grad and not one["scores"].requires_grad
        assert (one["boxes"] >= 0).all() and (
            one["boxes"] <= torch.tensor([100.0, 120.0, 100.0, 120.0])
        ).all()
        assert ((one["labels"] >= 1) & (one["labels"] <= 10)).all()
        assert (one["scores"].diff() <= 0).all()
    # No statistics moved
    assert all(torch.equal(value, before[name]) for name, value in toy.state_dict().items())


@pytest.mark.rubric("detect changes nothing and is well formed")
def test_all_detections_of_a_frame_come_back(toy):
    """An untrained detector sees something everywhere, and nothing for sure."""
    found = toy.detect(torch.rand(2, 3, 160, 160, generator=torch.Generator().manual_seed(0)) - 0.5)
    assert all(len(one["scores"]) > 1 for one in found)
    for each in found:
        same = each["labels"][:, None] == each["labels"]
        overlap = box_iou(each["boxes"], each["boxes"]).masked_fill(~same, 0).triu(1)
        assert overlap.max() <= 0.501  # suppressed within each action
    assert min(float(one["scores"].min()) for one in found) < 0.3


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
        # DALY, 16:9: the long side decides.
        ({"min_size": 600, "max_size": 800}, (360, 640), (450, 800)),
    ],
)
def test_range_and_size_of_what_the_body_sees(sizes, frame, resized):
    detector = ActionDetector(DetectorConfig("resnet18", **sizes))
    unit = torch.rand(3, 1, 1).expand(3, *frame)  # a flat picture in [0, 1]
    batch, _ = detector.model.transform([unit * 2 - 1])
    assert batch.image_sizes == [resized]
    expected = (unit[:, 0, 0] - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
    torch.testing.assert_close(batch.tensors[0, :, 10, 10], expected, rtol=1e-4, atol=1e-4)


class Seen(Exception):
    pass


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "body, sizes, frame, resized",
    [
        ("resnet18", {}, (240, 320), (340, 453)),  # JHMDB
        ("mobilenet_v2", {"min_size": 600, "max_size": 800}, (360, 640), (450, 800)),  # DALY, 16:9
        ("toy", {}, (160, 160), (160, 160)),
        ("toy", {"min_size": 96, "max_size": 120}, (160, 200), (96, 120)),
    ],
)
@pytest.mark.rubric(
    "the body sees frames as ImageNet's weights expect",
    points=3,
    hint="frames are RGB in [-1, 1]: (v + 1) / 2 before ImageNet's mean and deviation, or both "
    "constants restated; BGR/RGB swapped? the short side is min_size, the toy's too, unless the "
    "long side would exceed max_size; frames flipped without their boxes? nothing is flipped here",
)
def test_what_the_first_layer_is_given(body, sizes, frame, resized, training):
    """The same, seen from outside: what reaches the first convolution of the body, in training and
    in use.
    """
    detector = ActionDetector(DetectorConfig(body, **sizes))
    first = next(m for m in detector.modules() if isinstance(m, nn.Conv2d) and m.in_channels == 3)
    seen = []

    def stop(module, inputs):
        seen.append(inputs[0])
        raise Seen

    first.register_forward_pre_hook(stop)
    # A flat picture in [0, 1]
    unit = torch.tensor([0.9, 0.2, 0.7])[:, None, None].expand(3, *frame)
    with pytest.raises(Seen):
        detector.losses(
            unit[None] * 2 - 1, one(boxes=((10.0, 10.0, 90.0, 130.0),))
        ) if training else detector.detect(unit[None] * 2 - 1)
    shown = seen[0][0].detach()
    covered = (shown != 0).any(0)  # the rest is padding
    assert (int(covered.any(1).sum()), int(covered.any(0).sum())) == resized
    if body != "toy":
        expected = (unit[:, 0, 0] - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
        torch.testing.assert_close(shown[:, 10, 10], expected, rtol=1e-3, atol=1e-3)
    else:
        assert shown[0, 10, 10] > shown[2, 10, 10] > shown[1, 10, 10]  # red, blue, green


@pytest.mark.rubric("the body sees frames as ImageNet's weights expect")
def test_frames_are_not_flipped(toy):
    """Their boxes would not follow. Ten times, because a flip may be drawn."""
    toy.train()
    frames = torch.full((1, 3, 160, 160), -0.5)
    frames[..., :80] = 0.5
    frames[..., :80, :] -= 0.2
    first = next(m for m in toy.modules() if isinstance(m, nn.Conv2d) and m.in_channels == 3)
    seen = []
    handle = first.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0][0]))
    for _ in range(10):
        toy.losses(frames, one())
        toy.detect(frames)
    handle.remove()
    for picture in seen:  # (3, H, W), of whatever size
        left, right = picture.detach().tensor_split(2, dim=2)
        top, bottom = picture.detach().tensor_split(2, dim=1)
        assert left.mean() > right.mean() and top.mean() < bottom.mean()
    assert len(seen) == 20


@pytest.mark.rubric(
    "a weights file fills the body and is frozen as said",
    points=2,
    hint="all but the classifier is loaded; trainable_layers counts from the top; batch norm's "
    "statistics from ImageNet must not drift; from scratch everything learns. The paper's body, "
    "resnet101_c4, has one map of stride 16 and layer4 in its head; 3 trainable layers freeze "
    "conv1 and layer1; its anchors scale with min_size",
)
def test_a_weights_file_fills_the_body_and_its_statistics_stay(tmp_path):
    torch.manual_seed(1)
    source = mobilenet_v2(weights=None).state_dict()
    for name in source:  # weights as no fresh body has them
        source[name] = source[name] + 0.01 * torch.rand(source[name].shape).to(source[name].dtype)
    torch.save(source, tmp_path / "weights.pth")
    sizes = {"min_size": 96, "max_size": 96}
    detector = ActionDetector(
        DetectorConfig(
            "mobilenet_v2", weights=str(tmp_path / "weights.pth"), trainable_layers=2, **sizes
        )
    )
    body = {}  # the name in torchvision's file -> the detector's own tensor
    for name in source:
        mine = [
            key
            for key in detector.state_dict()
            if ("." + key).endswith("." + name.removeprefix("features."))
        ]
        if not name.startswith("classifier.") and not name.endswith("num_batches_tracked"):
            assert mine and torch.equal(detector.state_dict()[mine[0]], source[name]), name
            body[name] = mine[0]
    learns = {name for name, p in detector.named_parameters() if p.requires_grad}
    stages = {int(name.split(".")[1]) for name, key in body.items() if key in learns}
    assert stages == {14, 15, 16, 17, 18}  # the top two of mobilenet_v2's stages
    detector.train()
    sum(detector.losses(*scene()).values()).backward()
    for name in source:
        if "running" in name:
            assert torch.equal(detector.state_dict()[body[name]], source[name]), name
    scratch = ActionDetector(DetectorConfig("mobilenet_v2", trainable_layers=2, **sizes))
    assert all(p.requires_grad for p in scratch.parameters())
    with pytest.raises(ValueError):
        ActionDetector(DetectorConfig("resnet18", weights=str(tmp_path / "weights.pth")))


@pytest.mark.parametrize("body", ["resnet18", "mobilenet_v2"])
def test_full_bodies_train_and_detect(body):
    torch.manual_seed(0)
    detector = ActionDetector(DetectorConfig(body, classes=21, min_size=96, max_size=128))
    assert [len(sizes) for sizes in detector.model.rpn.anchor_generator.sizes] == {
        "resnet18": [1] * 5,
        "mobilenet_v2": [6],
    }[body]
    frames, targets = scene()
    losses = detector.losses(frames, targets)
    sum(losses.values()).backward()
    assert set(losses) == set(LOSS_NAMES)
    # scratch: trained whole
    assert all(p.grad is not None for p in detector.model.backbone.body.parameters())
    for one in detector.detect(frames):
        assert (one["boxes"] <= 160).all()  # in the frame's pixels, not the resized frame's
    assert detector.model.roi_heads.box_predictor.cls_score.out_features == 22


def test_mobile_body_gives_torchvisions_own_maps_and_freezes_from_below():
    torch.manual_seed(0)
    body = MobileBody(nn.BatchNorm2d, 2).eval()
    whole = mobilenet_v2()
    whole.features.load_state_dict(body.body.state_dict())
    frames = torch.rand(1, 3, 96, 128)
    maps = body(frames)
    torch.testing.assert_close(maps["deep"], whole.features.eval()(frames))
    # Strides 16 and 32
    assert maps["wide"].shape == (1, 96, 6, 8) and maps["deep"].shape == (
        1,
        1280,
        3,
        4,
    )
    learning = {name.split(".")[0] for name, p in body.body.named_parameters() if p.requires_grad}
    # The two highest stages: from the block that halves the wide map
    assert learning == {
        "14",
        "15",
        "16",
        "17",
        "18",
    }


@pytest.mark.parametrize("body", ["resnet101", "resnet50", "resnet34"])
def test_other_resnets_can_be_built(body):
    with torch.device("meta"):  # shapes only: no memory, no initialization
        detector = ActionDetector(DetectorConfig(body))
    # He et al. 2016
    blocks = {"resnet34": [3, 4, 6, 3], "resnet50": [3, 4, 6, 3], "resnet101": [3, 4, 23, 3]}[body]
    assert [len(detector.model.backbone.body[f"layer{i}"]) for i in (1, 2, 3, 4)] == blocks


# ------------------------------------------------------------------ the Faster R-CNN of 2018


@pytest.mark.parametrize(
    "min_size, anchors",
    [(600, (128, 256, 512)), (340, (73, 145, 290))],  # DALY; JHMDB: 340 / 600 of them
)
def test_c4_has_the_known_size_strides_and_anchors(min_size, anchors, monkeypatch):
    """51,991,844 parameters with 10 classes: batch norm is frozen, so its numbers are none."""
    monkeypatch.setattr(module, "_load_body", lambda body, config: None)
    settings = DetectorConfig(min_size=min_size, max_size=800, weights="resnet101.pth")
    with torch.device("meta"):
        detector = ActionDetector(settings)
    assert sum(p.numel() for p in detector.parameters()) == 51_991_844
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in detector.modules())
    with torch.device("meta"):
        frames = torch.zeros(1, 3, 608, 800)
        features = detector.model.backbone(frames)
        regions = detector.model.roi_heads.box_head[0](torch.zeros(2, 1024, 14, 14))
    assert features.shape == (1, 1024, 608 / 16, 800 / 16)
    assert regions.shape == (2, 2048, 7, 7)
    assert detector.model.roi_heads.box_head(torch.zeros(2, 1024, 14, 14, device="meta")).shape == (
        2,
        2048,
    )
    assert detector.model.roi_heads.box_roi_pool.output_size == (14, 14)
    assert detector.model.rpn.anchor_generator.sizes == (anchors,)
    assert detector.model.rpn.anchor_generator.aspect_ratios == ((0.5, 1.0, 2.0),)
    assert detector.model.rpn.head.cls_logits.out_channels == 9


@pytest.mark.rubric("a weights file fills the body and is frozen as said")
def test_the_papers_body_has_one_map_of_stride_16_and_a_frozen_start(tmp_path):
    """Seen from outside: what torchvision's proposals and heads get, and how much learns."""
    with torch.device("meta"):
        whole = resnet101()
    # Zeros that share one number: a file of kilobytes. Frozen batch norm divides by more than 0.
    file = {name: torch.zeros(()).expand(value.shape) for name, value in whole.state_dict().items()}
    torch.save(file, tmp_path / "resnet101.pth")
    settings = DetectorConfig(weights=str(tmp_path / "resnet101.pth"), min_size=64, max_size=96)
    detector = ActionDetector(settings)
    convs = {"frozen": [whole.conv1, whole.layer1], "learn": [whole.layer2, whole.layer3]}
    convs["learn"].append(whole.layer4)
    count = {
        word: sum(p.numel() for part in parts for p in part.parameters() if p.ndim == 4)
        for word, parts in convs.items()
    }
    # Proposals: a 3x3 convolution, then 9 anchors' scores and shifts. Head: 11 classes and boxes.
    heads = (9 * 1024 + 1) * 1024 + 1025 * 9 * 5 + 2049 * 11 * 5
    weights = [*detector.parameters()]
    assert sum(p.numel() for p in weights) == count["frozen"] + count["learn"] + heads
    assert sum(p.numel() for p in weights if p.requires_grad) == count["learn"] + heads

    maps = {}
    anchors = []
    proposals = next(m for m in detector.modules() if isinstance(m, RegionProposalNetwork))
    proposals.register_forward_pre_hook(lambda _, inputs: maps.update(inputs[1]))
    proposals.anchor_generator.register_forward_hook(lambda *call: anchors.extend(call[2]))
    detector.detect(torch.zeros(1, 3, 64, 96))
    assert [tuple(one.shape) for one in maps.values()] == [(1, 1024, 4, 6)]
    sides = (anchors[0][:, 2:] - anchors[0][:, :2]).prod(1).sqrt()  # px
    smallest, _, largest = (size * 64 / 600 for size in C4_ANCHORS)
    assert abs(sides.min() - smallest) < 2 and abs(sides.max() - largest) < 2


@pytest.fixture(scope="module")
def resnet101_file(tmp_path_factory):
    """A file as torchvision's own; each block adds little, or 33 of them would overflow."""
    torch.manual_seed(1)
    source = resnet101(weights=None).state_dict()
    for name in source:
        if name.endswith("bn3.weight"):
            source[name] = torch.full_like(source[name], 0.3)
        elif "running" in name:
            source[name] = source[name] + 0.01 * torch.rand(source[name].shape)
    path = tmp_path_factory.mktemp("weights") / "resnet101.pth"
    torch.save(source, path)
    return path, source


def test_c4_is_filled_by_torchvisions_file_and_frozen_as_said(resnet101_file):
    path, source = resnet101_file
    detector = ActionDetector(DetectorConfig(min_size=32, max_size=32, weights=str(path)))
    backbone = detector.model.backbone
    head = detector.model.roi_heads.box_head
    stages = {f"layer{n}.": part for n, part in zip((1, 2, 3, 4), [*backbone[1:], head[0]])}
    for name, value in [*backbone[0][0].state_dict().items(), *backbone[0][1].state_dict().items()]:
        assert torch.equal(value, source[f"{'bn1' if value.ndim == 1 else 'conv1'}.{name}"])
    for prefix, stage in stages.items():
        mine = stage.state_dict()
        assert len(mine) == sum(
            name.startswith(prefix) and "num_batches" not in name for name in source
        )
        assert all(torch.equal(value, source[prefix + name]) for name, value in mine.items())
    learns = {name.split(".")[0] for name, p in backbone.named_parameters() if p.requires_grad}
    assert learns == {"2", "3"}  # layer2 and layer3; conv1 and layer1 are frozen
    assert all(p.requires_grad for p in detector.model.roi_heads.parameters())

    frames, targets = scene(1)
    targets = one()
    frames.requires_grad_()
    losses = detector.train().losses(frames, targets)
    assert set(losses) == set(LOSS_NAMES)
    for name, loss in losses.items():  # also through frozen layers
        (gradient,) = torch.autograd.grad(loss, frames, retain_graph=True)
        assert gradient.isfinite().all() and gradient.abs().sum() > 0, name
    after = head[0].state_dict()
    assert all(torch.equal(after[name], source[f"layer4.{name}"]) for name in after)
    assert detector.detect(frames)[0]["boxes"].shape[1] == 4


def test_c4_refuses_the_file_of_another_resnet(tmp_path):
    path = make_file(resnet18(weights=None), tmp_path / "resnet18.pth")
    with pytest.raises(ValueError, match="resnet18.pth does not fit body resnet101_c4 .*; give"):
        ActionDetector(DetectorConfig(weights=path))


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
    learns = [
        name for name, p in detector.model.backbone.body.named_parameters() if p.requires_grad
    ]
    top = {"resnet18": ("layer3.", "layer4."), "mobilenet_v2": ("14.", "15.", "16.", "17.", "18.")}[
        body
    ]
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
    detector = ActionDetector(
        DetectorConfig("mobilenet_v2", weights=str(path), min_size=96, max_size=128)
    )
    frames, targets = scene()
    assert sum(detector.losses(frames, targets).values()).isfinite()


def test_wrong_weights_file(tmp_path):
    path = make_file(resnet18(weights=None), tmp_path / "resnet18.pth")
    with pytest.raises(ValueError, match="weights"):
        ActionDetector(DetectorConfig("resnet34", weights=path))


@pytest.mark.parametrize(
    "content",
    [
        b"<html>404 Not Found</html>",
        bytes(999),
        None,
    ],
)
def test_a_file_that_holds_no_weights_is_named(tmp_path, content):
    path = tmp_path / "resnet18.pth"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{path} does not fit .* or cannot be read; give"):
        ActionDetector(DetectorConfig("resnet18", weights=str(path)))


def test_more_stages_than_there_are_are_refused():
    """7 of MobileNetV2's six would count from the wrong end and freeze all of it."""
    for body, layers in (("mobilenet_v2", 7), ("resnet18", 6), ("resnet18", -1)):
        with pytest.raises(
            ValueError,
            match=f"trainable_layers is {layers}; give 0 to {6 if body == 'mobilenet_v2' else 5}",
        ):
            DetectorConfig(body, trainable_layers=layers)


def one(boxes=((10.0, 10.0, 90.0, 130.0),), labels=(1,)):
    return [{"boxes": torch.tensor(boxes).reshape(-1, 4), "labels": torch.tensor(labels)}]


REFUSED = [
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
    (torch.zeros(2, 3, 160, 160), one(), "one dict per frame"),
    (torch.full((1, 3, 160, 160), 255.0), one(), r"\[-1, 1\]"),
    (torch.full((1, 3, 160, 160), float("nan")), one(), r"\[-1, 1\]"),
    (torch.zeros(1, 3, 160, 160, dtype=torch.uint8), one(), "float"),
    (torch.zeros(3, 160, 160), one(), r"\(B, 3, H, W\)"),
    (torch.zeros(0, 3, 160, 160), [], "B above 0"),
]


@pytest.mark.parametrize("frames, targets, word", REFUSED)
def test_refusals_say_what_is_wrong(toy, frames, targets, word):
    toy.train()
    with pytest.raises(ValueError, match=word):
        toy.losses(frames, targets)


@pytest.mark.rubric(
    "bad input is refused",
    points=1,
    hint="torchvision takes boxes without area or outside the frame without a word: check frames, "
    "boxes and labels first and raise ValueError, for frames with nan too, which no comparison "
    "finds too large; losses in evaluation mode is a RuntimeError",
)
def test_bad_input_is_a_ValueError(toy):
    toy.train()
    for frames, targets, _ in REFUSED:
        with pytest.raises(ValueError):
            toy.losses(frames, targets)
            pytest.fail(f"losses took frames of {tuple(frames.shape)} and {targets}")
    shape = (1, 3, 160, 160)
    nans = torch.full(shape, float("nan"))
    for frames in (torch.full(shape, 255.0), torch.zeros(3, 160, 160), nans):
        with pytest.raises(ValueError):
            toy.detect(frames)


@pytest.mark.rubric("bad input is refused")
def test_full_frame_box_is_accepted(toy):
    toy.train()
    assert sum(
        toy.losses(torch.zeros(1, 3, 160, 160), one(boxes=((0.0, 0.0, 160.0, 160.0),))).values()
    ).isfinite()


@pytest.mark.rubric("bad input is refused")
def test_losses_need_training_mode(toy):
    toy.eval()
    with pytest.raises(RuntimeError):
        toy.losses(torch.zeros(1, 3, 160, 160), one())


BAD_SETTINGS = [
    ({"body": "vgg16"}, "body"),
    ({"classes": 0}, "classes"),
    ({"body": "toy", "weights": "x.pth"}, "weights"),
    ({"min_size": 600, "max_size": 400}, "min_size"),
]


@pytest.mark.parametrize("settings, word", BAD_SETTINGS)
def test_bad_settings_are_named(settings, word):
    with pytest.raises(ValueError, match=word):
        DetectorConfig(**settings)


@pytest.mark.rubric("bad input is refused")
def test_bad_settings_are_a_ValueError():
    for settings, _ in BAD_SETTINGS:
        with pytest.raises(ValueError):
            ActionDetector(DetectorConfig(**settings))


@pytest.mark.rubric(
    "the public names and the paper's settings are there",
    points=1,
    hint="keep the starter's names and defaults; min_size and max_size of None become 340 and 800, "
    "for the toy 160 and 160",
)
def test_config_defaults_follow_the_paper():
    config = DetectorConfig()
    assert (config.weights, config.trainable_layers, config.max_size) == (None, 3, 800)
    assert (DetectorConfig("toy").min_size, DetectorConfig("toy").max_size) == (160, 160)
    assert (IMAGENET_MEAN, IMAGENET_STD) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert set(LOSS_NAMES) == {
        "loss_objectness",
        "loss_rpn_box_reg",
        "loss_classifier",
        "loss_box_reg",
    }
    assert (config.body, config.min_size, config.classes) == ("resnet101_c4", 340, 10)
    pyramids = {"resnet18", "resnet34", "resnet50", "resnet101"}
    assert set(BODIES) == {"resnet101_c4", *pyramids, "mobilenet_v2", "toy"}
