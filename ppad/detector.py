"""A, the action detector: which box holds a person, and which action that person performs.

Paper: section 3.2 (L_det is "the sum of the four losses in Faster-RCNN") and section 4 (Faster R-CNN on a
ResNet-101, trained end to end).

Faster R-CNN itself - anchors, proposals, RoIAlign, sampling, the four losses, non-maximum suppression - is
torchvision's. This file adds three things:

* `ActionDetector`, which speaks this package's language: frames in [-1, 1], boxes in pixels, checked targets, one
  method for training (`losses`) and one for use (`detect`);
* the choice of body: a ResNet with a feature pyramid (the paper's is "resnet101"), a MobileNetV2 without one,
  whose deepest ImageNet map names the action (for small sets and machines), and "toy";
* `ToyBody` with `ToyBoxHead`, a detector of under 2 M parameters that learns from scratch on two CPU cores.

Why the toy is built as it is. Six of its ten actions differ only by an object of a few pixels beside a face, yet the
box around the person covers most of the frame. The two halves of the detector therefore want different maps. Finding
a person needs a wide view and no detail, so the region proposal network reads one stride-16 map. Naming the action
needs the detail, so RoIAlign reads a stride-4 map into a fine grid, and the box head looks at it with convolutions.

Where the paper is silent, we decided: a long side of at most 800 px ("600 x 800" for DALY is read as min_size=600,
max_size=800, and JHMDB's frames never reach the limit), and torchvision's defaults for anchors, sampling and
thresholds, with the first two stages of a pretrained ResNet frozen.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.models import mobilenet_v2
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101")
BODIES = RESNETS + ("mobilenet_v2", "toy")
LOSS_NAMES = (
    "loss_objectness",
    "loss_rpn_box_reg",
    "loss_classifier",
    "loss_box_reg",
)  # torchvision's four names

# Channel mean and deviation of ImageNet pictures in [0, 1]: what torchvision's weight files were trained with.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
SHAPES = (0.5, 1.0, 2.0)  # height over width of the anchors: torchvision's three


@dataclass
class DetectorConfig:
    """Settings of A. The defaults are the paper's for JHMDB, but for the number of classes, which is DALY's.

    body: one of `BODIES`; the paper uses "resnet101" (section 4).
    classes: number of actions, background not counted: 10 for DALY, 21 for JHMDB (section 5).
    min_size, max_size: frames are resized so that the short side is `min_size`, unless the long side would then
        exceed `max_size` (pixels). Section 4: 340 for JHMDB; 600 and 800 for DALY. None: 340 and 800, or 160 and 160
        for the toy, whose frames are 160 px wide and so keep their size.
    weights: path of a torchvision ImageNet file for this body (resnet101-....pth), or None to start from scratch.
    trainable_layers: how many of the body's stages learn, counted from the top, when it starts from `weights`
        (ResNet 0-5, MobileNetV2 0-6). 3 is torchvision's default and freezes what Faster R-CNN froze. A body
        without weights is trained whole.
    """

    body: str = "resnet101"
    classes: int = 10
    min_size: int | None = None
    max_size: int | None = None
    weights: str | None = None
    trainable_layers: int = 3

    def __post_init__(self):
        if self.body not in BODIES:
            raise ValueError(f"body is {self.body!r}; choose one of {', '.join(BODIES)}")
        if self.classes < 1:
            raise ValueError(
                f"classes is {self.classes}; give the number of actions, at least 1, without background"
            )
        if self.body == "toy" and self.weights is not None:
            raise ValueError(
                "weights is set, but the toy body has no ImageNet file; leave weights at None"
            )
        stages = 5 if self.body in RESNETS else 6
        if not 0 <= self.trainable_layers <= stages:
            raise ValueError(
                f"trainable_layers is {self.trainable_layers}; give 0 to {stages}, the stages of {self.body}"
            )
        if self.min_size is None:
            self.min_size = 160 if self.body == "toy" else 340
        if self.max_size is None:
            self.max_size = max(self.min_size, 160 if self.body == "toy" else 800)
        if not 0 < self.min_size <= self.max_size:
            raise ValueError(
                f"min_size is {self.min_size} and max_size {self.max_size}; need 0 < min_size <= max_size"
            )


class ActionDetector(nn.Module):
    """Faster R-CNN over actions (paper sections 3.2 and 4).

    Frames are (B, 3, H, W) RGB in [-1, 1]. Boxes are xyxy in pixels of the frame given, whatever size the network
    resizes it to; pixel i covers [i, i + 1), so the full frame is (0, 0, W, H). Labels run from 1 to `classes`;
    0 is the background and never appears in a target or a detection.
    """

    def __init__(self, config: DetectorConfig):
        super().__init__()
        self.config = config
        build = _build_toy if config.body == "toy" else _build_pyramid
        self.model = build(config)

    def losses(self, frames: Tensor, targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The four losses whose sum is the paper's L_det; gradients reach the weights and the frames.

        frames: (B, 3, H, W) in [-1, 1]. targets: one dict a frame, with "boxes" (n, 4) xyxy px and "labels" (n,)
        integers from 1 to `classes`; n may be 0 (nobody in the frame).
        Returns scalars under torchvision's names `LOSS_NAMES`.
        Raises ValueError for a wrong shape or range, a box without area or outside the frame, a label out of range;
        RuntimeError in evaluation mode, where torchvision computes no losses.
        """
        if not self.training:
            raise RuntimeError("the detector is in evaluation mode; call train() before losses()")
        _check_frames(frames)
        targets = _check_targets(targets, frames, self.config.classes)
        return self.model(list(frames), targets)

    @torch.no_grad()
    def detect(self, frames: Tensor) -> list[dict[str, Tensor]]:
        """Finds the actions in frames (B, 3, H, W) in [-1, 1].

        Returns one dict a frame: "boxes" (k, 4) xyxy px within the frame, "labels" (k,) from 1 to `classes`,
        "scores" (k,) in [0, 1], best first; k may be 0. Runs in evaluation mode without gradients and then puts
        every module back into the mode it was in. Raises ValueError for frames of a wrong shape or range.
        """
        _check_frames(frames)
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        try:
            return self.model(list(frames))
        finally:
            for module, training in modes:
                module.training = training


# ---------------------------------------------------------------------------------------------------------------
# Checks. A bad box does not stop torchvision: it turns the loss into nan, or teaches a class that does not exist.
# ---------------------------------------------------------------------------------------------------------------


def _check_frames(frames: Tensor) -> None:
    if frames.ndim != 4 or frames.shape[1] != 3 or not frames.is_floating_point():
        raise ValueError(
            f"frames is {frames.dtype} {tuple(frames.shape)}; give a float tensor (B, 3, H, W)"
        )
    if len(frames) == 0:
        raise ValueError("frames holds no frame; give at least one")
    # Written so that nan fails too. A hair above 1 is rounding (a resize, a paste), not another range.
    if not frames.detach().abs().amax() <= 1.01:
        raise ValueError(
            "frames has values outside [-1, 1] or nan; scale pictures to [-1, 1] first"
        )


def _check_targets(
    targets: list[dict[str, Tensor]], frames: Tensor, classes: int
) -> list[dict[str, Tensor]]:
    """Returns the targets on the frames' device in the dtypes torchvision wants; raises ValueError on bad ones."""
    if len(targets) != len(frames):
        raise ValueError(
            f"targets has {len(targets)} entries for {len(frames)} frames; give one dict a frame"
        )
    height, width = frames.shape[-2:]
    checked = []
    for index, target in enumerate(targets):
        boxes, labels = target["boxes"], target["labels"]
        if boxes.ndim != 2 or boxes.shape[1] != 4 or labels.shape != boxes.shape[:1]:
            raise ValueError(
                f"targets[{index}] has boxes {tuple(boxes.shape)} and labels {tuple(labels.shape)}; "
                "give (n, 4) and (n,), with n = 0 when nobody is there"
            )
        if not ((boxes[:, 2:] > boxes[:, :2]).all() and boxes.isfinite().all()):
            raise ValueError(
                f"targets[{index}]['boxes'] holds a box without area; drop it or order it as x1 y1 x2 y2"
            )
        limit = boxes.new_tensor([width, height, width, height])
        if (boxes < 0).any() or (boxes > limit).any():
            raise ValueError(
                f"targets[{index}]['boxes'] reaches outside the {width}x{height} frame; clip it to the frame"
            )
        if labels.is_floating_point() or (labels < 1).any() or (labels > classes).any():
            raise ValueError(
                f"targets[{index}]['labels'] must be integers from 1 to {classes}; 0 is the background"
            )
        soon = {
            "device": frames.device,
            "non_blocking": frames.device.type != "cpu",
        }  # a GPU need not be waited for
        checked.append(
            {
                "boxes": boxes.to(dtype=frames.dtype, **soon),
                "labels": labels.to(dtype=torch.int64, **soon),
            }
        )
    return checked


# ---------------------------------------------------------------------------------------------------------------
# The full-size detector: torchvision's Faster R-CNN on a feature pyramid.
# ---------------------------------------------------------------------------------------------------------------


def _build_pyramid(config: DetectorConfig) -> FasterRCNN:
    """Faster R-CNN on a feature pyramid network, with torchvision's own anchors, heads and thresholds."""
    # Statistics of ImageNet stay fixed when they come with the weights (a few frames a step are too few to
    # re-estimate them); without weights there is nothing to freeze, neither statistics nor stages.
    scratch = config.weights is None
    norm_layer = nn.BatchNorm2d if scratch else FrozenBatchNorm2d
    if config.body in RESNETS:
        backbone = resnet_fpn_backbone(
            backbone_name=config.body,
            weights=None,  # ours are read from a named file below; nothing is downloaded
            norm_layer=norm_layer,
            trainable_layers=5 if scratch else config.trainable_layers,
        )
        # One anchor size a level, strides 4-64, three shapes: torchvision's default, written out because it is tied
        # to the five levels that a ResNet gives.
        heads = {
            "rpn_anchor_generator": AnchorGenerator(
                ((32,), (64,), (128,), (256,), (512,)), (SHAPES,) * 5
            )
        }
    else:
        backbone = MobileBody(norm_layer, 6 if scratch else config.trainable_layers)
        heads = _mobile_heads(config)
    if not scratch:
        _load_body(backbone.body, config)
    # The transform's normalisation is (x - mean) / std. Stating ImageNet's constants in the units of [-1, 1],
    # where a value is 2 v - 1, makes the change of range part of it.
    return FasterRCNN(
        backbone,
        num_classes=None if "box_predictor" in heads else config.classes + 1,  # and background
        min_size=config.min_size,
        max_size=config.max_size,
        image_mean=[2 * mean - 1 for mean in IMAGENET_MEAN],
        image_std=[2 * std for std in IMAGENET_STD],
        **heads,
    )


class MobileBody(nn.Module):
    """MobileNetV2 as two maps of a frame: "deep" (stride 32) for naming the action, "wide" (stride 16) for finding the person.

    What ImageNet taught sits in the deepest map, where a linear layer alone reads most actions off a person's region
    (ours: 63 % of ten on held-out training stills). A pyramid would put untrained layers between, and a few hundred
    stills cannot train them. norm_layer: of the body; learning: how many of its six stages learn, from the top.
    """

    WIDE, DEEP, SPLIT = (
        96,
        1280,
        14,
    )  # channels of the two maps; the block that halves the wide map (torchvision's model)

    def __init__(self, norm_layer, learning: int):
        super().__init__()
        self.out_channels = self.WIDE  # FasterRCNN asks its backbone for this
        self.body = mobilenet_v2(norm_layer=norm_layer).features
        starts = [
            0,
            2,
            4,
            7,
            self.SPLIT,
            18,
            len(self.body),
        ]  # first blocks of the stages: where the stride doubles
        self.body[: starts[6 - learning]].requires_grad_(False)

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        wide = self.body[: self.SPLIT](frames)  # (B, WIDE, H / 16, W / 16)
        return {"deep": self.body[self.SPLIT :](wide), "wide": wide}  # (B, DEEP, H / 32, W / 32)


def _mobile_heads(config: DetectorConfig) -> dict:
    """Proposals from the wide map, names from a 3x3 grid on the deep one (ours)."""
    grid = 3  # of a region that fills most of a small still; the deep map is 8x8 at 256 px
    # Many sizes and few samples a frame: one person fills most of a small picture, and among torchvision's 256 samples
    # the few positive anchors do not count.
    anchors = CoarseAnchors(sizes=((32, 48, 72, 108, 160, 230),), aspect_ratios=(SHAPES,))
    return {
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
    """Fills a body from a torchvision classification file, leaving its classifier out."""
    try:
        # weights_only: a weight file from elsewhere may hold tensors, never code.
        state = torch.load(config.weights, map_location="cpu", weights_only=True)
        # A ResNet names its layers as the body does; MobileNetV2 keeps them under "features.".
        state = {name.removeprefix("features."): value for name, value in state.items()}
    except OSError as error:
        raise ValueError(
            f"weights file {config.weights} cannot be opened ({error.strerror}); check the path"
        ) from error
    except (
        Exception
    ) as error:  # half a download, or the web page of an error: torch raises one of many types
        raise ValueError(
            f"weights file {config.weights} is no file of weights; download torchvision's again"
        ) from error
    state = {
        name: value for name, value in state.items() if not name.startswith(("fc.", "classifier."))
    }
    try:
        body.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            f"weights file {config.weights} does not fit body {config.body}; give torchvision's file for that body"
        ) from error


# ---------------------------------------------------------------------------------------------------------------
# The toy detector. All sizes are ours: narrow enough for a step of four frames in under 0.1 s on two CPU cores.
# ---------------------------------------------------------------------------------------------------------------


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """3x3 convolution, batch norm, ReLU: (B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
    conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    nn.init.kaiming_normal_(
        conv.weight, mode="fan_out", nonlinearity="relu"
    )  # He et al. 2015, as in torchvision
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class ToyBody(nn.Module):
    """Two maps of a frame: "fine" (stride 4) for naming the action, "coarse" (stride 16) for finding the person."""

    FINE, COARSE = 48, 64

    def __init__(self):
        super().__init__()
        self.out_channels = self.COARSE  # FasterRCNN asks its backbone for this
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
    """RoI features (R, FINE, GRID, GRID) -> one vector a region (R, WIDTH).

    Two readings side by side: the layout of the region, which places the box and tells postures apart, and the
    strongest answer of each filter anywhere in it, so that a small object is learnt once and not once a cell.
    """

    GRID, CHANNELS, LAYOUT = 14, 64, 128
    WIDTH = LAYOUT + CHANNELS

    def __init__(self):
        super().__init__()
        self.detail = _conv(ToyBody.FINE, self.CHANNELS)
        self.reduce = _conv(self.CHANNELS, self.CHANNELS, 2)
        self.layout = nn.Linear(self.CHANNELS * (self.GRID // 2) ** 2, self.LAYOUT)
        # Maxima are large and alike for all regions; centred and scaled, they do not drown the layout.
        self.centre = nn.BatchNorm1d(self.CHANNELS)

    def forward(self, regions: Tensor) -> Tensor:
        detail = self.detail(regions)  # (R, CHANNELS, G, G)
        layout = self.layout(self.reduce(detail).flatten(1)).relu()  # (R, LAYOUT)
        return torch.cat([layout, self.centre(detail.amax((2, 3)))], dim=1)  # (R, WIDTH)


def _build_toy(config: DetectorConfig) -> FasterRCNN:
    # Toy people are 50-110 px wide and 90-150 px tall, and fewer than three a frame: three sizes and two shapes of
    # anchor cover them, and a few dozen proposals are plenty.
    anchors = CoarseAnchors(sizes=((64, 92, 128),), aspect_ratios=((1.0, 1.7),))
    return FasterRCNN(
        ToyBody(),
        min_size=config.min_size,
        max_size=config.max_size,
        image_mean=[0.0, 0.0, 0.0],  # frames in [-1, 1] are centred already
        image_std=[0.5, 0.5, 0.5],  # and drawn colours deviate by about this much
        rpn_anchor_generator=anchors,
        rpn_head=CoarseRPNHead(ToyBody.COARSE, anchors.num_anchors_per_location()[0]),
        rpn_pre_nms_top_n_train=100,
        rpn_post_nms_top_n_train=32,
        rpn_pre_nms_top_n_test=50,
        rpn_post_nms_top_n_test=20,
        rpn_batch_size_per_image=64,
        box_roi_pool=MultiScaleRoIAlign(["fine"], output_size=ToyBoxHead.GRID, sampling_ratio=2),
        box_head=ToyBoxHead(),
        box_predictor=FastRCNNPredictor(ToyBoxHead.WIDTH, config.classes + 1),
        box_batch_size_per_image=8,
        box_positive_fraction=0.5,  # torchvision's quarter would leave four regions a frame to learn actions from
        box_detections_per_img=10,
    )
