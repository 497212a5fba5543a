"""A correct detector, written another way: the frames are rescaled by hand, batch norm is frozen by
hand, and the toy is an ordinary one-map Faster R-CNN on plain convolutions.
"""

import torch
import torchvision
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import mobilenet_backbone, resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101")
BODIES = ("resnet101_c4", *RESNETS, "mobilenet_v2", "toy")
LOSS_NAMES = ("loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg")
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
SHAPES = (0.5, 1.0, 2.0)
C4_ANCHORS = (128, 256, 512)


class DetectorConfig:
    def __init__(
        self,
        body="resnet101_c4",
        classes=10,
        min_size=None,
        max_size=None,
        weights=None,
        trainable_layers=3,
    ):
        short, long = (160, 160) if body == "toy" else (340, 800)
        self.body = body
        self.classes = classes
        self.weights = weights
        self.trainable_layers = trainable_layers
        self.min_size = short if min_size is None else min_size
        self.max_size = max(self.min_size, long) if max_size is None else max_size
        problems = {
            "unknown body": body not in BODIES,
            "no action": classes < 1,
            "sizes": self.max_size < self.min_size,
            "no size": self.min_size <= 0,
            "no file fits the toy": body == "toy" and weights is not None,
        }
        for problem, there in problems.items():
            if there:
                raise ValueError(problem)


class ActionDetector(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.network = _toy(config) if config.body == "toy" else _big(config)

    def _look(self, frames, targets=None):
        unit = (frames + 1) / 2
        return self.network(list(unit), targets)

    def losses(self, frames, targets):
        if not self.training:
            raise RuntimeError("not in training")
        _frames_or_error(frames)
        if len(targets) != len(frames):
            raise ValueError("as many targets as frames, please")
        clean = [_target_or_error(target, frames, self.config.classes) for target in targets]
        found = self._look(frames, clean)
        return {name: found[name] for name in LOSS_NAMES}

    def detect(self, frames):
        _frames_or_error(frames)
        was_training = {name for name, module in self.named_modules() if module.training}
        self.train(False)
        with torch.inference_mode(False), torch.no_grad():
            found = self._look(frames.detach())
        for name, module in self.named_modules():
            module.training = name in was_training
        return [{key: one[key] for key in ("boxes", "labels", "scores")} for one in found]


def _frames_or_error(frames):
    fine = (
        frames.is_floating_point()
        and frames.dim() == 4
        and frames.size(0) > 0
        and frames.size(1) == 3
    )
    if not fine or not bool((frames.abs() <= 1.01).all()):
        raise ValueError("floats (B, 3, H, W) between -1 and 1, please")


def _target_or_error(target, frames, classes):
    boxes = target["boxes"]
    labels = target["labels"]
    if boxes.dim() != 2 or boxes.size(-1) != 4 or labels.dim() != 1 or len(labels) != len(boxes):
        raise ValueError("four numbers and one label a box, please")
    if labels.is_floating_point() or any(
        label not in range(1, classes + 1) for label in labels.tolist()
    ):
        raise ValueError("no such action")
    for x1, y1, x2, y2 in boxes.tolist():
        if not (0 <= x1 < x2 <= frames.shape[3] and 0 <= y1 < y2 <= frames.shape[2]):
            raise ValueError("no box of this frame")
    return {"boxes": boxes.to(frames), "labels": labels.to(frames.device).long()}


def _big(config):
    scratch = config.weights is None
    norm = nn.BatchNorm2d if scratch else FrozenBatchNorm2d
    if config.body == "resnet101_c4":
        return _c4(config, torchvision.models.resnet101(norm_layer=norm), scratch)
    if config.body == "mobilenet_v2":
        backbone = mobilenet_backbone(
            backbone_name="mobilenet_v2",
            weights=None,
            fpn=True,
            norm_layer=norm,
            trainable_layers=6 if scratch else config.trainable_layers,
            returned_layers=[3, 4, 5],
        )
        anchors = AnchorGenerator(((32, 64), (96, 128), (192, 256), (384,) * 2), (SHAPES,) * 4)
    else:
        backbone = resnet_fpn_backbone(
            backbone_name=config.body,
            weights=None,
            norm_layer=norm,
            trainable_layers=5 if scratch else config.trainable_layers,
        )
        anchors = None
    if not scratch:
        _fill(backbone.body, config.weights)
    return FasterRCNN(
        backbone,
        config.classes + 1,
        min_size=config.min_size,
        max_size=config.max_size,
        image_mean=IMAGENET_MEAN,
        image_std=IMAGENET_STD,
        rpn_anchor_generator=anchors,
    )


def _fill(body, path):
    wanted = body.state_dict()
    file = torch.load(path, weights_only=True, map_location="cpu")
    for name, value in file.items():
        name = name[len("features.") :] if name.startswith("features.") else name
        if name.split(".")[0] in ("fc", "classifier") or name.endswith("num_batches_tracked"):
            continue
        if name not in wanted or wanted[name].shape != value.shape:
            raise ValueError("another body's file")
        wanted.pop(name).copy_(value)
    if wanted:
        raise ValueError("the file is not complete")


def _c4(config, resnet, scratch):
    del resnet.fc
    if not scratch:
        _fill(resnet, config.weights)
    parts = [part for name, part in resnet.named_children() if name not in ("avgpool", "layer4")]
    stages = [parts[:4], *([part] for part in parts[4:]), [resnet.layer4]]
    for stage in [] if scratch else stages[: 5 - config.trainable_layers]:
        for part in stage:
            part.requires_grad_(False)
    backbone = nn.Sequential(*parts)
    backbone.out_channels = 1024
    anchors = tuple(config.min_size * size / 600 for size in C4_ANCHORS)
    return FasterRCNN(
        backbone,
        min_size=config.min_size,
        max_size=config.max_size,
        image_mean=IMAGENET_MEAN,
        image_std=IMAGENET_STD,
        rpn_anchor_generator=AnchorGenerator((anchors,), (SHAPES,)),
        box_roi_pool=MultiScaleRoIAlign(["0"], 14, 2),
        box_head=nn.Sequential(resnet.layer4, nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        box_predictor=FastRCNNPredictor(2048, config.classes + 1),
    )


def _toy(config):
    layers = []
    channels = 3
    for out, stride in ((16, 2), (24, 1), (32, 2), (48, 2), (64, 1)):
        layers += [
            nn.Conv2d(channels, out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(out),
            nn.LeakyReLU(0.05),
        ]
        channels = out
    body = nn.Sequential(*layers)
    body.out_channels = channels
    return FasterRCNN(
        body,
        min_size=config.min_size,
        max_size=config.max_size,
        image_mean=(0.5,) * 3,
        image_std=(0.25,) * 3,
        rpn_anchor_generator=AnchorGenerator(((64, 92, 128),), ((1.0, 1.7),)),
        rpn_batch_size_per_image=64,
        rpn_pre_nms_top_n_train=100,
        rpn_post_nms_top_n_train=32,
        rpn_pre_nms_top_n_test=50,
        rpn_post_nms_top_n_test=20,
        box_roi_pool=MultiScaleRoIAlign(["0"], 7, 2),
        box_head=TwoMLPHead(channels * 49, 128),
        box_predictor=FastRCNNPredictor(128, config.classes + 1),
        box_batch_size_per_image=8,
        box_positive_fraction=0.5,
        box_detections_per_img=10,
    )
