"""The action detector A: finds each person and says which action that person performs.

Paper: section 3.1 (L_det is "the sum of the four losses in Faster-RCNN") and section 4 (Faster
R-CNN on a ResNet-101, trained end to end).

Faster R-CNN itself - anchors, proposals, RoIAlign, sampling, the four losses, non-maximum
suppression - is torchvision's. This file adds three things:

* `ActionDetector`, with this package's conventions: frames in [-1, 1], boxes in pixels, checked
  targets, one method for training (`losses`) and one for use (`detect`);
* the choice of body: "resnet101_c4", the ResNet-101 as Faster R-CNN used it when the paper was
  written (conv1 to layer3 make one map of stride 16; the head pools 14x14 of it for each region,
  then applies layer4 and a spatial mean); ResNets with a feature pyramid, as in today's
  torchvision; a MobileNetV2, whose deepest ImageNet map classifies the action (for small sets and
  machines); and "toy";
* `ToyBody` with `ToyBoxHead`, a detector of under 2 M parameters that learns from scratch on two
  CPU cores.

The toy's design. Six of its ten actions differ only by an object of a few pixels beside a face, yet
the box around the person covers most of the frame. Finding a person needs a large receptive field,
so it uses a stride-16 map. Classifying the action needs detail, so it uses a fine grid of a
stride-4 map and a box head with convolutions.

Our choices where the paper is silent: the C4 form; "600 x 800" for DALY as min_size=600,
max_size=800 (JHMDB's frames never reach the limit); torchvision's defaults for the rest.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.models import mobilenet_v2, resnet101
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign

PYRAMIDS = ("resnet18", "resnet34", "resnet50", "resnet101")
BODIES = ("resnet101_c4", *PYRAMIDS, "mobilenet_v2", "toy")
# torchvision's names of the four losses.
LOSS_NAMES = ("loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg")

# Per channel, of ImageNet pictures in [0, 1], for torchvision's weight files.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Height / width of the anchors, in Ren et al. and torchvision.
SHAPES = (0.5, 1.0, 2.0)
# Ren et al. 2016, section 3.3: anchors in px for a short side of 600. For others they are scaled
# (ours; 73, 145 and 290 at JHMDB's 340), so that they cover the same share of a frame.
C4_ANCHORS = (128, 256, 512)


@dataclass
class DetectorConfig:
    """Settings of A. The defaults are the paper's for JHMDB, but with DALY's 10 classes.

    body              one of `BODIES`; the paper uses a ResNet-101 (section 4).
    classes           number of actions without background: 10 for DALY, 21 for JHMDB (section 5).
    min_size,         frames are resized so that the short side is `min_size`, unless the long side
    max_size          would then exceed `max_size` (pixels). Section 4: 340 for JHMDB; 600 and 800
                      for DALY. None: 340 and 800, or 160 and 160 for the toy, whose 160 px frames
                      then keep their size.
    weights           path of a torchvision ImageNet file for this body, or None to start from
                      scratch.
    trainable_layers  how many of the body's stages are trained, counted from the top, when it
                      starts from `weights` (ResNets 0-5, MobileNetV2 0-6). 3 is torchvision's
                      default and freezes what Faster R-CNN froze. Without weights all are trained.
    """

    body: str = "resnet101_c4"
    classes: int = 10
    min_size: int | None = None
    max_size: int | None = None
    weights: str | None = None
    trainable_layers: int = 3

    def __post_init__(self):
        if self.body not in BODIES:
            raise ValueError(f"body is {self.body!r}; choose one of {', '.join(BODIES)}")
        if self.classes < 1:
            raise ValueError(f"classes is {self.classes}; give the number of actions, at least 1")
        if self.body == "toy" and self.weights is not None:
            raise ValueError("weights is set, but no ImageNet file fits the toy; leave it at None")
        stages = _stages(self.body)
        if not 0 <= self.trainable_layers <= stages:
            raise ValueError(f"trainable_layers is {self.trainable_layers}; give 0 to {stages}")
        if self.min_size is None:
            self.min_size = 160 if self.body == "toy" else 340
        if self.max_size is None:
            self.max_size = max(self.min_size, 160 if self.body == "toy" else 800)
        if not 0 < self.min_size <= self.max_size:
            sizes = f"min_size is {self.min_size} and max_size {self.max_size}"
            raise ValueError(f"{sizes}; need 0 < min_size <= max_size")


class ActionDetector(nn.Module):
    """Faster R-CNN over actions (paper sections 3.1 and 4).

    Frames are (B, 3, H, W) RGB in [-1, 1]. Boxes are xyxy in pixels of these frames, whatever size
    the network resizes them to; pixel i covers [i, i + 1), so the full frame is (0, 0, W, H).
    Labels run from 1 to `classes`; 0 is the background and is in no target and no detection.
    """

    def __init__(self, config: DetectorConfig):
        super().__init__()
        self.config = config
        self.model = _build(config)
        self.model.rpn.head.register_forward_hook(_in_full_precision)

    def losses(self, frames: Tensor, targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The four losses whose sum is the paper's L_det, with gradients to weights and frames.

        frames: (B, 3, H, W) in [-1, 1]. targets: one dict per frame, with "boxes" (n, 4) xyxy px
        and "labels" (n,) integers from 1 to `classes`; n may be 0; they are not modified.
        Returns scalars under torchvision's names `LOSS_NAMES`.
        Raises ValueError for a wrong shape or range, a box without area or outside the frame, a
        label out of range; RuntimeError in evaluation mode, where torchvision computes no losses.
        """
        if not self.training:
            raise RuntimeError("the detector is in evaluation mode; call train() before losses()")
        _check_frames(frames)
        targets = _check_targets(targets, frames, self.config.classes)
        return self.model(list(frames), targets)

    @torch.no_grad()
    def detect(self, frames: Tensor) -> list[dict[str, Tensor]]:
        """Detect the actions in frames (B, 3, H, W) in [-1, 1].

        Returns one dict per frame: "boxes" (k, 4) xyxy px within the frame, "labels" (k,), "scores"
        (k,) in [0, 1], best first; k may be 0. Runs in evaluation mode without gradients, then
        restores the mode of every module. Raises ValueError for frames of a wrong shape or range.
        """
        _check_frames(frames)
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        try:
            return self.model(list(frames))
        finally:
            for module, training in modes:
                module.training = training


def _in_full_precision(head, inputs, outputs):
    """A hook on the RPN's head that makes its outputs float32.

    torchvision casts all boxes, even true ones, to the outputs' type: bf16 rounds 301 px to 300.
    """
    scores, shifts = outputs  # one map per level each
    return list(map(Tensor.float, scores)), list(map(Tensor.float, shifts))


# ------------------------------------------------------------------ checks
# torchvision accepts bad boxes: the loss becomes nan, or A learns a class that does not exist.


def _check_frames(frames: Tensor) -> None:
    shape = tuple(frames.shape)
    if len(shape) != 4 or shape[0] == 0 or shape[1] != 3 or not frames.is_floating_point():
        raise ValueError(f"frames is {frames.dtype} {shape}; give floats (B, 3, H, W), B above 0")
    # Written so that nan fails too. 1.01 tolerates the rounding of a resize or a paste.
    if not frames.detach().abs().amax() <= 1.01:
        raise ValueError("frames has values outside [-1, 1] or nan; scale it to [-1, 1] first")


def _check_targets(
    targets: list[dict[str, Tensor]], frames: Tensor, classes: int
) -> list[dict[str, Tensor]]:
    """The targets on the frames' device, in torchvision's dtypes. ValueError for bad ones."""
    if len(targets) != len(frames):
        raise ValueError(
            f"{len(targets)} targets for {len(frames)} frames; give one dict per frame"
        )
    height, width = frames.shape[-2:]
    non_blocking = frames.device.type != "cpu"  # no GPU sync
    checked = []
    for index, target in enumerate(targets):
        boxes = target["boxes"]
        labels = target["labels"]
        name = f"targets[{index}]"
        if boxes.ndim != 2 or boxes.shape[1] != 4 or labels.shape != boxes.shape[:1]:
            shapes = f"boxes {tuple(boxes.shape)} and labels {tuple(labels.shape)}"
            raise ValueError(f"{name} has {shapes}; give (n, 4) and (n,); n may be 0")
        if not ((boxes[:, 2:] > boxes[:, :2]).all() and boxes.isfinite().all()):
            raise ValueError(f"{name} has a box without area; drop it or order it x1 y1 x2 y2")
        if (boxes < 0).any() or (boxes > boxes.new_tensor([width, height] * 2)).any():
            raise ValueError(f"{name} has a box outside the {width}x{height} frame; clip it")
        if labels.is_floating_point() or (labels < 1).any() or (labels > classes).any():
            raise ValueError(
                f"labels of {name} must be integers from 1 to {classes}; 0 is the background"
            )
        boxes = boxes.to(frames.device, frames.dtype, non_blocking)
        labels = labels.to(frames.device, torch.int64, non_blocking)
        checked.append({"boxes": boxes, "labels": labels})
    return checked


# ------------------------------------------------------------------ the full-size detectors


def _stages(body: str) -> int:
    """How many stages of an ImageNet body can be trained or frozen."""
    return 5 if body.startswith("resnet") else 6


def _build(config: DetectorConfig) -> FasterRCNN:
    """Faster R-CNN on one of `BODIES`.

    With ImageNet weights, the batch norm statistics stay fixed: a few frames per step are too few
    to estimate them again.
    """
    scratch = config.weights is None
    norm_layer = nn.BatchNorm2d if scratch else FrozenBatchNorm2d
    learning = _stages(config.body) if scratch else config.trainable_layers
    if config.body == "toy":
        backbone, settings = _toy(config)
    elif config.body == "resnet101_c4":
        backbone, settings = _c4(config, norm_layer, learning)
    elif config.body == "mobilenet_v2":
        backbone, settings = _mobile(config, norm_layer, learning)
    else:
        # torchvision's pyramid, anchors, heads, sampling, thresholds; nothing is downloaded
        backbone = resnet_fpn_backbone(
            backbone_name=config.body,
            weights=None,
            norm_layer=norm_layer,
            trainable_layers=learning,
        )
        _load_body(backbone.body, config)
        settings = {"num_classes": config.classes + 1}  # and background
    # The model normalizes frames by (x - mean) / std. A value v in [0, 1] is 2 v - 1 in [-1, 1], so
    # ImageNet's constants are converted.
    imagenet = {
        "image_mean": [2 * mean - 1 for mean in IMAGENET_MEAN],
        "image_std": [2 * std for std in IMAGENET_STD],
    }
    return FasterRCNN(
        backbone,
        min_size=config.min_size,
        max_size=config.max_size,
        **(imagenet | settings),
    )


def _c4(config: DetectorConfig, norm_layer, learning: int) -> tuple[nn.Module, dict]:
    """The Faster R-CNN of 2018 (He et al. 2016; Ren et al. 2016; the public code of both).

    ResNet-101's conv1 to layer3 make one map of stride 16. Each region is pooled from it to 14x14.
    The head is layer4, which halves that to 7x7, and a spatial mean.
    """
    resnet = resnet101(norm_layer=norm_layer)
    resnet.fc = nn.Identity()
    _load_body(resnet, config)
    conv1 = nn.Sequential(resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool)
    stages = [conv1, resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4]
    for stage in stages[: 5 - learning]:
        stage.requires_grad_(False)
    backbone = nn.Sequential(*stages[:4])  # (B, 3, H, W) -> (B, 1024, H / 16, W / 16)
    backbone.out_channels = 1024  # FasterRCNN requires this attribute
    sizes = tuple(round(size * config.min_size / 600) for size in C4_ANCHORS)
    return backbone, {
        "rpn_anchor_generator": AnchorGenerator((sizes,), (SHAPES,)),
        "rpn_pre_nms_top_n_train": 12000,  # Ren et al.'s code, as are the other four numbers
        "rpn_post_nms_top_n_train": 2000,
        "rpn_pre_nms_top_n_test": 6000,
        "rpn_post_nms_top_n_test": 300,
        "box_batch_size_per_image": 128,
        "box_roi_pool": MultiScaleRoIAlign(["0"], output_size=14, sampling_ratio=2),
        "box_head": nn.Sequential(resnet.layer4, nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        "box_predictor": FastRCNNPredictor(2048, config.classes + 1),
    }


class MobileBody(nn.Module):
    """MobileNetV2 as two maps of a frame: "deep" (stride 32) to classify the action, "wide"
    (stride 16) to find the person.

    A linear layer on the deepest map recognizes most actions in a person's region (ours: 63 % of
    ten on held-out training stills). A pyramid's layers need more than a few hundred stills.

    learning: how many of the six stages are trained, from the top.
    """

    WIDE = 96  # channels of the wide map
    DEEP = 1280  # channels of the deep map
    SPLIT = 14  # the block that halves the wide map (torchvision's model)
    STAGES = (0, 2, 4, 7, 14, 18, 19)  # first blocks of the stages, where the stride doubles; end

    def __init__(self, norm_layer, learning: int):
        super().__init__()
        self.out_channels = self.WIDE  # FasterRCNN requires this attribute
        self.body = mobilenet_v2(norm_layer=norm_layer).features
        self.body[: self.STAGES[6 - learning]].requires_grad_(False)

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        wide = self.body[: self.SPLIT](frames)  # (B, WIDE, H / 16, W / 16)
        return {"deep": self.body[self.SPLIT :](wide), "wide": wide}  # (B, DEEP, H / 32, W / 32)


def _mobile(config: DetectorConfig, norm_layer, learning: int) -> tuple[nn.Module, dict]:
    """Proposals from the wide map, classes from a 3x3 grid on the deep one (ours)."""
    backbone = MobileBody(norm_layer, learning)
    _load_body(backbone.body, config)
    grid = 3  # a region fills most of a small still; the deep map is 8x8 at 256 px
    # Many sizes and few samples per frame: one person fills most of a small picture, and the few
    # positive anchors would not count among torchvision's 256 samples.
    anchors = CoarseAnchors(sizes=((32, 48, 72, 108, 160, 230),), aspect_ratios=(SHAPES,))
    return backbone, {
        "rpn_anchor_generator": anchors,
        "rpn_head": CoarseRPNHead(MobileBody.WIDE, anchors.num_anchors_per_location()[0]),
        "rpn_batch_size_per_image": 32,
        "rpn_fg_iou_thresh": 0.6,
        "rpn_pre_nms_top_n_train": 400,
        "rpn_post_nms_top_n_train": 100,
        "rpn_pre_nms_top_n_test": 200,
        "rpn_post_nms_top_n_test": 60,
        "box_roi_pool": MultiScaleRoIAlign(["deep"], output_size=grid, sampling_ratio=2),
        "box_head": nn.Flatten(),
        "box_predictor": FastRCNNPredictor(MobileBody.DEEP * grid**2, config.classes + 1),
        "box_batch_size_per_image": 32,
    }


def _load_body(body: nn.Module, config: DetectorConfig) -> None:
    """Load a torchvision classification file, if given, into a body, without its classifier."""
    if config.weights is None:
        return
    try:
        # weights_only: a weight file from elsewhere must not run code.
        state = torch.load(config.weights, map_location="cpu", weights_only=True)
        # ResNet files have the body's layer names; MobileNetV2's have the prefix "features.".
        layers = {
            name.removeprefix("features."): value
            for name, value in state.items()
            if not name.startswith(("fc.", "classifier."))
        }
        body.load_state_dict(layers)
    except Exception as error:  # torch.load raises many types
        raise ValueError(
            f"weights file {config.weights} does not fit body {config.body} or cannot be read; "
            "give torchvision's file for that body"
        ) from error


# ------------------------------------------------------------------ the toy detector
# All sizes are ours: a step of four frames takes under 0.1 s on two CPU cores.


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """3x3 conv, batch norm, ReLU: (B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
    conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    # He et al. 2015, as in torchvision.
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class ToyBody(nn.Module):
    """Two maps of a frame: "fine" (stride 4) to classify the action, "coarse" (stride 16) to find
    the person."""

    FINE = 48  # channels
    COARSE = 64

    def __init__(self):
        super().__init__()
        self.out_channels = self.COARSE  # FasterRCNN requires this attribute
        self.fine = nn.Sequential(
            _conv(3, 16, 2), _conv(16, 24), _conv(24, self.FINE, 2), _conv(self.FINE, self.FINE)
        )
        self.coarse = nn.Sequential(
            _conv(self.FINE, 64, 2), _conv(64, 64, 2), _conv(64, self.COARSE)
        )

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        fine = self.fine(frames)  # (B, FINE, H / 4, W / 4)
        return {"fine": fine, "coarse": self.coarse(fine)}  # (B, COARSE, H / 16, W / 16)


class CoarseAnchors(AnchorGenerator):
    """Anchors on the last feature map only."""

    def forward(self, images, features):
        return super().forward(images, features[-1:])


class CoarseRPNHead(RPNHead):
    """Region proposals from the last feature map only."""

    def forward(self, features):
        return super().forward(features[-1:])


class ToyBoxHead(nn.Module):
    """RoI features (R, FINE, GRID, GRID) -> one vector per region (R, WIDTH).

    Two parts: the layout of the region, which places the box and distinguishes postures, and
    the maximum of each filter over the region, so that a small object is learned once,
    wherever it is.
    """

    GRID = 14
    CHANNELS = 64
    LAYOUT = 128
    WIDTH = LAYOUT + CHANNELS

    def __init__(self):
        super().__init__()
        self.detail = _conv(ToyBody.FINE, self.CHANNELS)
        self.reduce = _conv(self.CHANNELS, self.CHANNELS, 2)
        self.layout = nn.Linear(self.CHANNELS * (self.GRID // 2) ** 2, self.LAYOUT)
        # Maxima are large and similar in all regions; normalized, they do not outweigh the layout.
        self.norm = nn.BatchNorm1d(self.CHANNELS)

    def forward(self, regions: Tensor) -> Tensor:
        detail = self.detail(regions)  # (R, CHANNELS, G, G)
        layout = self.layout(self.reduce(detail).flatten(1)).relu()  # (R, LAYOUT)
        maxima = self.norm(detail.amax((2, 3)))  # (R, CHANNELS)
        return torch.cat([layout, maxima], dim=1)  # (R, WIDTH)


def _toy(config: DetectorConfig) -> tuple[nn.Module, dict]:
    # Toy people are 53-90 px wide and 111-145 px tall, one per frame: anchors of three sizes and
    # two shapes and a few dozen proposals are enough.
    anchors = CoarseAnchors(sizes=((64, 92, 128),), aspect_ratios=((1.0, 1.7),))
    return ToyBody(), {
        "image_mean": [0.0, 0.0, 0.0],
        "image_std": [0.5, 0.5, 0.5],  # about that of drawn frames in [-1, 1]
        "rpn_anchor_generator": anchors,
        "rpn_head": CoarseRPNHead(ToyBody.COARSE, anchors.num_anchors_per_location()[0]),
        "rpn_pre_nms_top_n_train": 100,
        "rpn_post_nms_top_n_train": 32,
        "rpn_pre_nms_top_n_test": 50,
        "rpn_post_nms_top_n_test": 20,
        "rpn_batch_size_per_image": 64,
        "box_roi_pool": MultiScaleRoIAlign(["fine"], output_size=ToyBoxHead.GRID, sampling_ratio=2),
        "box_head": ToyBoxHead(),
        "box_predictor": FastRCNNPredictor(ToyBoxHead.WIDTH, config.classes + 1),
        "box_batch_size_per_image": 8,
        "box_positive_fraction": 0.5,  # torchvision's 0.25 would leave two positive regions
        "box_detections_per_img": 10,
    }
