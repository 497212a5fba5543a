"""The players M, D and A as a preset sizes them, and what D is shown of a face (paper Sec. 3-4).

The three networks are `modifier`, `sphereface` and `detector`. Here they are put together: D is
SphereFace with its head and its A-Softmax; faces are aligned before D sees them, and vary a little
while it learns. The trainer, the attackers and the evaluation all take their players from here.
"""

import dataclasses
import os

import torch
from torch import nn
from torch.nn import functional as F

from ppad import optim
from ppad.crop_sampler import align_faces, recognizer_input
from ppad.detector import ActionDetector, DetectorConfig
from ppad.loop import read_checkpoint, save_tensors
from ppad.losses import ASoftmaxLoss
from ppad.modifier import Modifier, ModifierConfig
from ppad.optim import GIB
from ppad.sphereface import AngularMarginHead, SphereFace, SphereFaceConfig

# Sec. 5.1: CASIA-WebFace without its three people of LFW; DALY's classes
ASSUMED = {"people": 10572, "classes": 10}
MOST_JOBS = 4  # ours: each takes 1 GB on a CPU; on a GPU more would only wait for each other
EYE_DISTANCE = 35.24  # px between the eyes of the 112x96 template (SphereFace's alignment)


class Recognizer(nn.Module):
    """D: SphereFace, its angular-margin head and its A-Softmax in one module.

    The number of D's updates so far, which sets the margin's lambda, is in the state dict: neither
    a resumed run nor an attacker that starts from trained weights begins with it again.

    Args:
        network: aligned crops (B, 3, h, w) to embeddings (B, E).
        head: embeddings to cosines (B, N) and norms (B, 1).
        margin: `losses.ASoftmaxLoss`.
    """

    def __init__(self, network: nn.Module, head: nn.Module, margin: nn.Module):
        super().__init__()
        self.network = network
        self.head = head
        self.margin = margin

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        """Aligned BGR crops (B, 3, h, w) to embeddings (B, E)."""
        return self.network(crops)

    def loss(
        self,
        crops: torch.Tensor,
        identities: torch.Tensor,
        reduction: str = "mean",
        margin: bool = True,
    ) -> torch.Tensor:
        """The paper's L_D (Sec. 3.1), in nats.

        Args:
            crops: (B, 3, h, w), aligned. identities: (B,) int64 in 0..N-1, best on the CPU.
            reduction: "mean" gives a scalar, "none" gives (B,).
            margin: False leaves the margin out: what D decides, not what it is trained to reach.
        """
        cosines, norms = self._angles(crops)
        return self.margin(cosines, norms, identities, reduction=reduction, margin=margin)

    def logits(self, crops: torch.Tensor) -> torch.Tensor:
        """What D decides of aligned crops (B, 3, h, w): (B, N), without margin."""
        cosines, norms = self._angles(crops)
        return cosines * (self.margin.scale or norms)

    def _angles(self, crops: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines (B, N) to the class weights, and norms (B, 1) of the embeddings."""
        features = self.network(crops)  # (B, E)
        # Angles need full precision, whatever the network runs in.
        with torch.autocast(features.device.type, enabled=False):
            return self.head(features.float())


def make_modifier(config) -> nn.Module:
    """M as the preset sizes it."""
    if config.modifier_exchange:
        return Exchanger(config.face_size, config.embedding)
    return Modifier(
        ModifierConfig(
            width=config.modifier_width,
            blocks=config.modifier_blocks,
            size=config.face_size,
            upsample=config.modifier_upsample,
            match_color=config.modifier_match_color,
        )
    )


class Exchanger(nn.Module):
    """Another M (ours): M(f, e) = G(E(f) + noise, e) paints the face f with the identity e.

    An M that must stay close to f (eq. 3) must know who it is. This one is told: e is a person's
    mean embedding by D. While M learns, e is the true person's and the output must be f, so the
    code E(f) need not hold the identity, and what it holds has a price (`nats`). In use e is
    somebody else's, drawn anew at each call. Source of the idea: Moyer et al., "Invariant
    Representations without Adversarial Training", NeurIPS 2018.

    Only a soft ellipse about the head is painted; what is around it stays as it was.

        encoder    conv 5 /2, conv 4 /2, 2 blocks, conv 1, tanh     24 x S/4 x S/4, the code
        decoder    conv 3 of code, of 8 maps made of e, and of x, y 64 x S/4 x S/4
                   2 blocks scaled and shifted by e, twice u        3 x S x S

    Args:
        size: side S of the faces, px, a multiple of 4. embedding: length E of e.
    """

    stochastic = True  # each call draws anew: nobody may keep and reuse its outputs
    NOISE = 0.5  # ours: standard deviation; the code itself lies in [-1, 1]
    OTHERS = 64  # ours: identities to draw from; few, as they are kept with M's weights

    def __init__(self, size: int, embedding: int):
        super().__init__()
        self.size = size
        self.encode = nn.Sequential(  # faces (B, 3, S, S) to their code, in [-1, 1]
            nn.Conv2d(3, 24, kernel_size=5, stride=2, padding=2),
            nn.LeakyReLU(0.2),
            nn.Conv2d(24, 48, kernel_size=4, stride=2, padding=1),
            ConditionalBlock(48),
            ConditionalBlock(48),
            nn.LeakyReLU(0.2),
            nn.Conv2d(48, 24, kernel_size=1),
            nn.Tanh(),
        )
        self.style = nn.Sequential(
            nn.Linear(embedding, 128), nn.LeakyReLU(0.2), nn.Linear(128, 128), nn.LeakyReLU(0.2)
        )
        self.layout = nn.Linear(128, 8 * (size // 4) ** 2)
        self.join = nn.Conv2d(24 + 8 + 2, 64, kernel_size=3, padding=1)
        self.blocks = nn.ModuleList([ConditionalBlock(64, 128), ConditionalBlock(64, 128)])
        self.middle = nn.Conv2d(64, 32, kernel_size=3, padding=1)
        self.middle_style = nn.Linear(128, 2 * 32)
        self.top = nn.Conv2d(32, 16, kernel_size=3, padding=1)
        self.paint = nn.Conv2d(16, 3, kernel_size=3, padding=1)
        self.register_buffer("others", torch.zeros(self.OTHERS, embedding))
        axis = (torch.arange(size) + 0.5) * 2 / size - 1  # (S,) in [-1, 1]
        # A head with its hair fills about this ellipse of a crop 1.6 times the face's box.
        radius = ((axis / 0.75) ** 2 + ((axis[:, None] + 0.05) / 0.85) ** 2).sqrt()  # (S, S)
        self.register_buffer("mask", torch.sigmoid(12 * (1 - radius)), persistent=False)
        cells = (torch.arange(size // 4) + 0.5) * 8 / size - 1  # (S/4,)
        place = torch.stack(torch.meshgrid(cells, cells, indexing="xy"))  # (2, S/4, S/4)
        self.register_buffer("place", place, persistent=False)

    def meet(self, people: torch.Tensor) -> None:
        """Take the first OTHERS of the people (N, E), once more if they are fewer, to draw from."""
        self.others.copy_(people[torch.arange(self.OTHERS) % len(people)])

    def add_noise(self, code: torch.Tensor) -> torch.Tensor:
        """What G is given of a code."""
        return code + self.NOISE * torch.randn_like(code)

    def nats(self, code: torch.Tensor) -> torch.Tensor:
        """The most that a noisy code can tell, a mean over the batch (KL divergence to noise)."""
        return code.square().flatten(1).sum(dim=1).mean() / (2 * self.NOISE**2)

    def decode(self, faces, noisy: torch.Tensor, people: torch.Tensor) -> torch.Tensor:
        """The faces (B, 3, S, S) with G's painting, of noisy codes and people (B, E), pasted in."""
        style = self.style(people)  # (B, 128)
        layout = F.leaky_relu(self.layout(style), 0.2)  # (B, 8 S/4 S/4)
        layout = layout.view(-1, 8, *noisy.shape[2:])  # (B, 8, S/4, S/4)
        place = self.place.expand(len(noisy), -1, -1, -1)  # (B, 2, S/4, S/4)
        x = self.join(torch.cat([noisy, layout, place], dim=1))  # (B, 64, S/4, S/4)
        for block in self.blocks:
            x = block(x, style)
        x = self.middle(F.interpolate(F.relu(x), scale_factor=2))  # (B, 32, S/2, S/2)
        x = scaled_and_shifted(x, self.middle_style(style))
        x = self.top(F.interpolate(F.leaky_relu(x, 0.2), scale_factor=2))  # (B, 16, S, S)
        painting = torch.tanh(self.paint(F.leaky_relu(x, 0.2)))  # (B, 3, S, S)
        return self.mask * painting + (1 - self.mask) * faces

    def forward(self, faces: torch.Tensor) -> torch.Tensor:
        """Faces (B, 3, S, S) in [-1, 1], each with an identity drawn for it; the same shape."""
        if len(faces) == 0:
            return faces
        drawn = torch.randint(len(self.others), (len(faces),))  # (B,)
        people = self.others[drawn.to(faces.device)]  # (B, E)
        return self.decode(faces, self.add_noise(self.encode(faces)), people)


class ConditionalBlock(nn.Module):
    """x + conv(relu(scale * conv(relu(x)) + shift)), scale and shift made of a style, if any.

    The last conv starts small, so that a block starts near the identity.
    """

    def __init__(self, channels: int, style: int = 0):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        self.second = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        self.style = nn.Linear(style, 2 * channels) if style else None
        with torch.no_grad():
            self.second.weight.mul_(0.2)

    def forward(self, x: torch.Tensor, style: torch.Tensor | None = None) -> torch.Tensor:
        inner = self.first(F.relu(x))  # (B, C, h, w)
        if self.style is not None:
            inner = scaled_and_shifted(inner, self.style(style))
        return x + self.second(F.relu(inner))


def scaled_and_shifted(x: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
    """x (B, C, h, w) times 1 + the first half of `by` (B, 2C), plus the second half."""
    scale, shift = by[:, :, None, None].chunk(2, dim=1)  # (B, C, 1, 1) each
    return x * (1 + scale) + shift


class CodeReader(nn.Module):
    """Names the person of an Exchanger's code (B, 24, h, h): (B, N) logits. M learns to fool it.

    Args: side: h, of the code. people: (N, E), the identities that M is told; kept here, so that a
        checkpoint holds them.
    """

    def __init__(self, side: int, people: torch.Tensor):
        super().__init__()
        self.register_buffer("people", people)
        self.net = nn.Sequential(
            nn.Conv2d(24, 96, kernel_size=3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(96, 96, kernel_size=4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(96, 192, kernel_size=4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(192 * (side // 4) ** 2, 128),
            nn.LeakyReLU(0.2),
            nn.Linear(128, len(people)),
        )

    def forward(self, code: torch.Tensor) -> torch.Tensor:
        return self.net(code)


def make_recognizer(config, identities: int) -> Recognizer:
    """D as the preset sizes it, for `identities` people.

    From `recognizer_weights` it starts trained, but for its head, and with the margin at its
    smallest lambda: back at the start of the schedule it would forget (see `ASoftmaxLoss`).
    """
    network = SphereFace(
        SphereFaceConfig(
            depth=config.recognizer_depth,
            width=config.recognizer_width,
            embedding=config.embedding,
            input_size=(config.recognizer_height, config.recognizer_breadth),
        )
    )
    trained = bool(config.recognizer_weights)
    if trained:
        load_public_weights(network, config.recognizer_weights)
    margin = ASoftmaxLoss(
        m=config.margin,
        base=config.lambda_floor if trained else config.lambda_base,
        gamma=config.lambda_gamma,
        floor=config.lambda_floor,
        scale=config.recognizer_scale,
    )
    return Recognizer(network, AngularMarginHead(config.embedding, identities), margin)


def load_public_weights(network: SphereFace, path) -> None:
    """Fill D's network from a public file of SphereFace-20, trained on CASIA-WebFace (Sec. 4).

    Such files name their tensors as Caffe does (conv1_1.weight, conv1_1.bias, relu1_1.weight) or by
    blocks, but hold the same 62 in the same order: each convolution's weight, bias and slopes, then
    fc5's weight and bias. The class weights behind them, of other people than ours, are dropped.

    Raises ValueError for a file that is not there or holds something else.
    """
    own = network.state_dict()
    try:
        # weights_only: a file from elsewhere may hold tensors, never code.
        values = list(torch.load(path, map_location="cpu", weights_only=True).values())
        shapes = [value.shape for value in values]
    except Exception as error:  # a broken or foreign file: torch raises one of many types
        why = error.strerror if isinstance(error, OSError) else "it is no file of weights"
        raise ValueError(
            f"recognizer_weights {path} cannot be read ({why}): give a public PyTorch file of "
            "SphereFace-20"
        ) from error
    if shapes[: len(own)] != [value.shape for value in own.values()] or len(values) > len(own) + 1:
        raise ValueError(
            f"recognizer_weights {path} does not fit D: it must hold D's {len(own)} tensors in "
            "their order, and behind them no more than class weights"
        )
    network.load_state_dict(dict(zip(own, values)))


def make_detector(config, classes: int) -> ActionDetector:
    """A as the preset sizes it, for `classes` actions."""
    return ActionDetector(
        DetectorConfig(
            body=config.detector_body,
            classes=classes,
            weights=config.detector_weights or None,
            trainable_layers=config.detector_trainable,
            min_size=min(config.frame_height, config.frame_width),
            max_size=max(config.frame_height, config.frame_width),
        )
    )


# ---------------------------------------------------------------- what D is shown


def aligned_crops(
    pictures: torch.Tensor, landmarks: torch.Tensor, size: tuple[int, int]
) -> torch.Tensor:
    """What a recognizer sees of face pictures, aligned by the five landmarks (Sec. 4).

    The landmarks are those of the *original* picture also when `pictures` are modified: a fair
    attacker may know where the face was, and an alignment that fails would look like privacy.

    Args:
        pictures: (B, 3, S, S) RGB in [-1, 1]. landmarks: (B, 5, 2) px. size: (h, w) of the crops.
    Returns (B, 3, h, w) BGR.
    """
    return recognizer_input(align_faces(pictures, landmarks, size))


def jitter_landmarks(landmarks: torch.Tensor, pixels: float) -> torch.Tensor:
    """Landmarks (B, 5, 2) with Gaussian noise of `pixels` at a crop height of 112 (ours).

    The alignment varies, the faces do not.
    """
    if pixels == 0:
        return landmarks
    eyes = (landmarks[:, 1] - landmarks[:, 0]).norm(dim=1)[:, None, None]  # (B, 1, 1) px
    return landmarks + torch.randn_like(landmarks) * pixels * eyes / EYE_DISTANCE


def jitter_colors(crops: torch.Tensor, strength: float) -> torch.Tensor:
    """Crops (B, 3, h, w) with random contrast (1 +- strength) and brightness (+- strength) (ours).

    One draw a picture; values stay in [-1, 1].
    """
    if strength == 0:
        return crops
    draw = 2 * torch.rand(2, len(crops), 1, 1, 1, device=crops.device) - 1  # (2, B, 1, 1, 1)
    contrast, brightness = draw * strength  # (B, 1, 1, 1) each
    return (crops * (1 + contrast) + brightness).clamp(-1, 1)


# ---------------------------------------------------------------- what D learns from again


class KeptOutputs(nn.Module):
    """The last outputs of M and their originals, in 8 bits; a module so that checkpoints hold them.

    Args: room: how many faces. size: their side, px.
    """

    def __init__(self, room: int, size: int):
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))  # faces ever added
        self.register_buffer("pictures", torch.zeros(room, 3, size, size, dtype=torch.uint8))
        self.register_buffer("modified", torch.zeros(room, 3, size, size, dtype=torch.uint8))
        self.register_buffer("landmarks", torch.zeros(room, 5, 2))
        self.register_buffer("identities", torch.zeros(room, dtype=torch.int64))

    def add(self, pictures, modified, landmarks, identities) -> None:
        """Keep a batch in place of the oldest."""
        at = (self.count + torch.arange(len(pictures))) % len(self.pictures)  # (B,)
        for kept, new in ((self.pictures, pictures), (self.modified, modified)):
            kept[at] = ((new.detach() + 1) * 127.5).round().byte().cpu()  # (B, 3, S, S)
        self.landmarks[at] = landmarks.cpu()
        self.identities[at] = identities.cpu()
        self.count += len(pictures)

    def draw(self, number: int) -> tuple:
        """Any of those kept: pictures, modified (n, 3, S, S), landmarks (n, 5, 2), identities."""
        at = torch.randint(min(int(self.count), len(self.pictures)), (number,))  # (n,)
        faces = (kept[at] / 127.5 - 1 for kept in (self.pictures, self.modified))
        return (*faces, self.landmarks[at], self.identities[at])


# ---------------------------------------------------------------- memory


def kept_bytes(network, *shape) -> int:
    """Bytes that a network on the meta device keeps of an input of `shape` for its backward."""
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(saved.append, lambda none: none):
        network(torch.empty(shape, device="meta"))
    own = [one.untyped_storage() for one in [*network.parameters(), *network.buffers()]]
    storages = {id(storage): storage for storage in [one.untyped_storage() for one in saved]}
    return sum(storages[i].nbytes() for i in storages.keys() - {id(one) for one in own})


def needs(config, people: int, classes: int, rows: int = 11) -> dict[str, float]:
    """GiB of memory for `training` and of `disk`, roughly: from shapes, nothing is allocated.

    Training: weights, gradients and Adam's two moments (4 x 4 bytes a weight), and what the largest
    update keeps for its backward pass, of one part of an accumulated batch. Disk: two checkpoints a
    row of the players and of the attacker, weights and moments.
    """
    config = dataclasses.replace(config, detector_weights="", recognizer_weights="")
    with torch.device("meta"):
        modifier = make_modifier(config)
        recognizer = make_recognizer(config, people)
        detector = make_detector(config, classes)
    body = detector.model.backbone
    heads = detector.model.roi_heads
    if config.checkpointing:
        for network in (modifier, recognizer.network, body):
            optim.recompute(network)
    m, d, a = (sum(p.numel() for p in x.parameters()) for x in (modifier, recognizer, detector))
    crop = (3, config.recognizer_height, config.recognizer_breadth)
    faces = config.batch_faces // config.accumulate
    frames = config.batch_frames // config.accumulate
    frame = (frames, 3, config.frame_height, config.frame_width)
    maps = body(torch.empty(frame, device="meta"))  # one map, or a dict of them
    read = maps if torch.is_tensor(maps) else maps[heads.box_roi_pool.featmap_names[0]]
    regions = frames * heads.fg_bg_sampler.batch_size_per_image
    game = (
        kept_bytes(modifier, faces + frames, 3, config.face_size, config.face_size)  # a face each
        + kept_bytes(recognizer.network, faces, *crop)
        + kept_bytes(body, *frame)
        + kept_bytes(heads.box_head, regions, read.shape[1], *heads.box_roi_pool.output_size)
    )
    alone = kept_bytes(recognizer.network, max(config.pretrain_recognizer_batch, 2 * faces), *crop)
    copies = config.warmup_recognizers if config.warmup_steps else 0  # of D, in the warm-up
    weights = m + d + a + copies * d
    return {
        "training": (16 * weights + max(game, alone)) / GIB,
        "disk": rows * 2 * 12 * (weights + d) / GIB,
    }


def default_jobs(device: str, gpu: float, config) -> int:
    """How many rows to train at once: one a core, or as many as a GPU of `gpu` GiB surely holds.

    On a GPU a row is taken to need twice its networks' memory and 1 GiB, for cuDNN's workspaces and
    CUDA's context (ours: not measured), and two cores.
    """
    cores = os.cpu_count() or 1
    if not optim.CAN_FORK or torch.cuda.is_initialized():
        return 1
    if device == "cpu":
        return min(MOST_JOBS, cores)
    training = needs(config, **ASSUMED)["training"]  # GiB
    return max(1, min(MOST_JOBS, cores // 2, int(0.8 * gpu / (2 * training + 1))))


# ---------------------------------------------------------------- on disk


def save_players(path, config: dict, parts: dict) -> None:
    """Write networks to one file, in half precision. Raises files.WriteError.

    Args: config: the preset's fields. parts: name -> state dict.
    """
    halves = {
        name: {
            key: value.half() if value.is_floating_point() else value
            for key, value in state.items()
        }
        for name, state in parts.items()
    }
    save_tensors(path, {"config": config, "parts": halves})


def load_players(path) -> dict:
    """What `save_players` wrote: {"config": fields, "parts": {name: state dict}}.

    `load_state_dict` turns the values into full precision. Raises LoopError naming the file.
    """
    return read_checkpoint(path)
