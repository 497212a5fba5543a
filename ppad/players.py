"""Build the players M, D and A from a preset, and cut D's aligned crops (paper Sec. 3-4).

The networks are defined in `modifier`, `sphereface` and `detector`, our `Exchanger` here.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from ppad import loop
from ppad.crop_sampler import TEMPLATE_96x112, align_faces, recognizer_input
from ppad.detector import ActionDetector, DetectorConfig
from ppad.losses import ASoftmaxLoss
from ppad.modifier import Modifier, ModifierConfig
from ppad.sphereface import AngularMarginHead, SphereFace, SphereFaceConfig

EYE_DISTANCE = 35.24  # px between the eyes of the 112x96 template (SphereFace's alignment)


class Recognizer(nn.Module):
    """D: SphereFace, its angular-margin head and its A-Softmax in one module.

    The state dict contains the number of D's updates, which sets the margin's lambda. So a resumed
    run, or an attacker that starts from trained weights, continues the count.

    Args: network: aligned crops (B, 3, h, w) to embeddings (B, E). head: embeddings to cosines
        (B, N) and norms (B, 1). margin: `losses.ASoftmaxLoss`.
    """

    def __init__(self, network: nn.Module, head: nn.Module, margin: nn.Module):
        super().__init__()
        self.network = network
        self.head = head
        self.margin = margin

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        """Aligned BGR crops (B, 3, h, w) to embeddings (B, E)."""
        return self.network(crops)

    def loss(self, crops, identities, reduction="mean", margin=True) -> torch.Tensor:
        """The paper's L_D (Sec. 3.1) of aligned crops (B, 3, h, w), in nats.

        Other arguments and shapes as in `ASoftmaxLoss.forward`. Without the margin, the loss
        measures D's decisions and not its stricter training target.
        """
        cosines, norms = self._angles(crops)
        return self.margin(cosines, norms, identities, reduction=reduction, margin=margin)

    def logits(self, crops: torch.Tensor) -> torch.Tensor:
        """D's logits (B, N) for aligned crops (B, 3, h, w), without the margin."""
        cosines, norms = self._angles(crops)
        return cosines * (self.margin.scale or norms)

    def _angles(self, crops: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.network(crops)  # (B, E)
        # Angles need full precision, also under autocast.
        with torch.autocast(features.device.type, enabled=False):
            return self.head(features.float())  # (B, N), (B, 1)


def make_modifier(config) -> nn.Module:
    """M with the sizes of the preset."""
    if config.modifier_exchange:
        return Exchanger(config.face_size, config.embedding)
    sizes = ModifierConfig(
        width=config.modifier_width,
        blocks=config.modifier_blocks,
        size=config.face_size,
        upsample=config.modifier_upsample,
        match_color=config.modifier_match_color,
    )
    return Modifier(sizes)


class Exchanger(nn.Module):
    """Another M (ours): M(f, e) = G(E(f) + noise, e) paints the face f with the identity e.

    e is D's mean embedding of a person. In training it is the true person's and the output must be
    f, so the code E(f) need not contain the identity; the loss penalizes its information (`nats`).
    In use, e is drawn for each face from OTHERS training people (`draw`). Only an ellipse around
    the face is painted. Sources: Moyer et al., "Invariant Representations without Adversarial
    Training", NeurIPS 2018; for the landmarks and the surroundings of the head as inputs of G,
    Maximov et al., "CIAGAN", CVPR 2020.

        code     conv 5 /2, conv 4 /2, 2 blocks, conv 1, tanh              24 x S/4 x S/4
        around   picture outside a wider ellipse: 4 convs /2, 2 convs x2   24 at S/2 and at S/4
        layout   12 maps computed from e, rotated and scaled to fit the landmarks
        decoder  at S/4: conv 3 of all these, 2 blocks scaled and shifted by e
                 at S/2 and S: upsample, conv 3, plus conv 3 of layout, landmarks, around

    Args: size: side S of the faces, px, a multiple of 8. embedding: length E of e.
    """

    stochastic = True  # each call draws new values: do not cache outputs
    NOISE = 0.5  # ours: standard deviation; the code is in [-1, 1]
    SHIFT = 0.005  # ours: of S, standard deviation of the noise on landmarks
    # Ours: standard deviation of noise on the new face's size, 7 % of it. A fixed size, compared
    # with the true landmarks that attackers align by, would reveal the person.
    SIZE = 0.02  # share of S; the centered landmarks have a norm of 0.29 S
    ELLIPSE = (0.07, 0.04, 0.04)  # ours, likewise: +- share of its size; right, down: of S / 2
    OTHERS = 64  # ours: people to draw from; few, since they are stored with M's weights
    # Ours: the previous frame's weight after 1/25 second; without smoothing the new face jitters.
    PLACE_STAYS = 0.8
    PAINT_STAYS = 0.5

    def __init__(self, size: int, embedding: int):
        super().__init__()
        self.size = size
        self.encode = nn.Sequential(  # faces (B, 3, S, S) to their code, in [-1, 1]
            conv(3, 24, kernel=5, stride=2),
            nn.LeakyReLU(0.2),
            conv(24, 48, kernel=4, stride=2),
            ConditionalBlock(48),
            ConditionalBlock(48),
            nn.LeakyReLU(0.2),
            conv(48, 24, kernel=1),
            nn.Tanh(),
        )
        # GroupNorm: M's batch may be a single face
        self.locate = LandmarkReader(size, norm=lambda channels: nn.GroupNorm(8, channels))
        deeper = (conv(24, 24, kernel=4, stride=2) for _ in range(3))
        self.around = nn.ModuleList([conv(4, 24, kernel=5, stride=2), *deeper])
        self.back = nn.ModuleList(conv(48, 24) for _ in range(2))
        self.style = nn.Sequential(
            nn.Linear(embedding, 128), nn.LeakyReLU(0.2), nn.Linear(128, 128), nn.LeakyReLU(0.2)
        )
        self.layout = nn.Sequential(
            nn.Linear(128, 16 * 16 * 16),
            nn.LeakyReLU(0.2),
            nn.Unflatten(1, (16, 16, 16)),
            nn.Upsample(scale_factor=2, mode="bilinear"),
            conv(16, 12),
            nn.LeakyReLU(0.2),
        )
        known = 12 + 2 + 5  # channels of `_known`
        self.join = conv(known + 24 + 24, 64)
        self.blocks = nn.ModuleList([ConditionalBlock(64, 128), ConditionalBlock(64, 128)])
        self.middle = conv(64, 32)
        self.middle_known = conv(known + 24, 32)
        self.middle_block = ConditionalBlock(32, 128)
        self.top = conv(32, 16)
        self.top_known = conv(known + 4, 16)
        self.top_style = nn.Linear(128, 2 * 16)
        self.paint = nn.Sequential(
            nn.LeakyReLU(0.2), conv(16, 16), nn.LeakyReLU(0.2), conv(16, 3), nn.Tanh()
        )
        self.register_buffer("others", torch.zeros(self.OTHERS, embedding))
        self.register_buffer("shape", torch.zeros(5, 2))
        template = torch.tensor(TEMPLATE_96x112) / 80  # ours: a head with its hair fills [-1, 1]
        self.register_buffer("template", template - template.mean(dim=0), persistent=False)
        axis = (torch.arange(size) + 0.5) * 2 / size - 1  # (S,) in [-1, 1]
        self.register_buffer("axis", axis, persistent=False)

    def meet(self, people: torch.Tensor, landmarks: torch.Tensor) -> None:
        """Store the first OTHERS of people (N, E), and the mean shape of landmarks (n, 5, 2) px."""
        self.others.copy_(people[torch.arange(self.OTHERS) % len(people)])
        shapes = landmarks - landmarks.mean(dim=1, keepdim=True)  # (n, 5, 2)
        self.shape.copy_((shapes / shapes.flatten(1).norm(dim=1)[:, None, None]).mean(dim=0))

    def draw(self, number: int) -> list[torch.Tensor]:
        """Random inputs of `forward`: people, code noise, landmark noise, ellipses, `number` each.
        A movie keeps a person's, so averaging its frames does not remove the noise."""
        device = self.others.device
        people = self.others[torch.randint(self.OTHERS, (number,), device=device)]  # (n, E)
        noise, shift, ellipses = self.draw_noise(number)
        size = self.SIZE * self.size * torch.randn(number, 1, 1, device=device)  # px
        return [people, noise, shift + size * self.shape, ellipses]

    def draw_noise(self, number: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Noise for training: on codes (n, 24, S/4, S/4), on landmarks (n, 5, 2) px, and for
        ellipses (n, 3): relative growth, shift right, shift down."""
        device = self.others.device
        side = self.size // 4
        noise = self.NOISE * torch.randn(number, 24, side, side, device=device)
        shift = self.SHIFT * self.size * torch.randn(number, 5, 2, device=device)  # px
        uniform = 2 * torch.rand(number, 3, device=device) - 1  # (n, 3) in [-1, 1]
        return noise, shift, uniform * torch.tensor(self.ELLIPSE, device=device)

    def radius(self, ellipses: torch.Tensor) -> torch.Tensor:
        """Each pixel's distance from the center of ellipses (B, 3), 1 at the edge: (B, 1, S, S)."""
        # Ours: a smaller ellipse leaves too much hair.
        larger, right, down = ellipses[:, :, None].unbind(dim=1)  # (B, 1) each
        across = (self.axis - right) / (0.62 * (1 + larger))  # (B, S)
        along = (self.axis + 0.04 - down) / (0.73 * (1 + larger))  # (B, S)
        return (across[:, None, None, :].square() + along[:, None, :, None].square()).sqrt()

    def paste(self, painted, faces, ellipses) -> torch.Tensor:
        """G's output inside ellipses (B, 3), the faces (B, 3, S, S) outside."""
        # Ours: an edge one pixel wide; a wider one let attackers recognize the face.
        mask = ((1.02 - self.radius(ellipses)) / 0.04).clamp(0, 1)  # (B, 1, S, S)
        return mask * painted + (1 - mask) * faces

    @torch.no_grad()
    def place(self, faces: torch.Tensor) -> torch.Tensor:
        """Landmarks (B, 5, 2), px: the mean shape, which identifies nobody, fitted to the faces."""
        shape = self.shape.expand(len(faces), 5, 2)
        return moved(shape, fit(shape, self.locate(faces)))

    def nats(self, code: torch.Tensor) -> torch.Tensor:
        """Upper bound of the information in a noisy code, batch mean (KL divergence to noise)."""
        return code.square().flatten(1).sum(dim=1).mean() / (2 * self.NOISE**2)

    def decode(self, faces, noisy, points, people, ellipses) -> torch.Tensor:
        """The faces (B, 3, S, S) with G's output pasted in; arguments as in `generate`."""
        return self.paste(self.generate(faces, noisy, points, people, ellipses), faces, ellipses)

    def generate(self, faces, noisy, points, people, ellipses) -> torch.Tensor:
        """G's output for faces (B, 3, S, S): new faces of the same shape.

        Args: noisy: codes with noise (B, 24, S/4, S/4). points: (B, 5, 2) px. people: (B, E).
            ellipses: (B, 3).
        """
        style = self.style(people)  # (B, 128)
        layout = self.layout(style)  # (B, 12, 32, 32)
        # Ours: G does not see the hair around the ellipse; it would continue it.
        covered = (self.radius(ellipses) < 1.25).to(faces)  # (B, 1, S, S)
        context = torch.cat([faces * (1 - covered), covered], dim=1)  # (B, 4, S, S)
        half, quarter = self._context_maps(context)  # (B, 24, S/2, S/2), (B, 24, S/4, S/4)

        x = torch.cat([self._known(layout, points, self.size // 4), noisy, quarter], dim=1)
        x = self.join(x)  # (B, 64, S/4, S/4)
        for block in self.blocks:
            x = block(x, style)

        x = self.middle(F.interpolate(F.relu(x), scale_factor=2))  # (B, 32, S/2, S/2)
        known = torch.cat([self._known(layout, points, self.size // 2), half], dim=1)
        x = self.middle_block(x + self.middle_known(known), style)

        x = self.top(F.interpolate(F.leaky_relu(x, 0.2), scale_factor=2))  # (B, 16, S, S)
        known = torch.cat([self._known(layout, points, self.size), context], dim=1)
        x = scaled_and_shifted(x + self.top_known(known), self.top_style(style))
        return self.paint(x)

    def _context_maps(self, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Maps (B, 24, h, h), h = S/2 and S/4: the context, extended into the covered part."""
        maps = [context]
        for layer in self.around:
            maps.append(F.leaky_relu(layer(maps[-1]), 0.2))  # (B, 24, h/2, h/2)
        _, half, quarter, eighth, deepest = maps
        for layer, fine in zip(self.back, (eighth, quarter)):
            coarse = F.interpolate(deepest, size=fine.shape[2:])  # (B, 24, 2h, 2h)
            deepest = F.leaky_relu(layer(torch.cat([fine, coarse], dim=1)), 0.2)
        return half, deepest

    def _known(self, layout, points, side: int) -> torch.Tensor:
        """Maps (B, 12 + 2 + 5, side, side) that depend on the landmarks `points` (B, 5, 2).

        The layout (B, 12, 32, 32) in place, coordinates in its frame, a spot at each landmark.
        """
        axis = (torch.arange(side, device=points.device) + 0.5) * self.size / side  # (side,) px
        pixels = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=2)  # (side, side, 2)
        grid = moved(pixels.view(1, -1, 2), fit(points, self.template[None]))  # (B, side^2, 2)
        grid = grid.view(-1, side, side, 2)
        placed = F.grid_sample(layout.float(), grid, align_corners=False)  # (B, 12, side, side)
        width = 1.5 * self.size / side  # px: ours, a spot covers a few cells
        spots = (axis - points[..., None]).div(width).square().mul(-0.5).exp()  # (B, 5, 2, side)
        spots = spots[:, :, 1, :, None] * spots[:, :, 0, None, :]  # (B, 5, side, side)
        return torch.cat([placed, grid.permute(0, 3, 1, 2), spots], dim=1)

    def forward(self, faces: torch.Tensor, drawn=None) -> torch.Tensor:
        """Faces (B, 3, S, S) in [-1, 1] to other people's, with the values `drawn` by `draw(B)`."""
        if len(faces) == 0:
            return faces
        people, noise, shift, ellipses = self.draw(len(faces)) if drawn is None else drawn
        points = self.place(faces) + shift  # (B, 5, 2)
        return self.decode(faces, self.encode(faces) + noise, points, people, ellipses)

    def next_frame(self, face: torch.Tensor, last=None, seconds: float = math.inf) -> tuple:
        """Repaint a person's face in the next frame of a movie: the same new face, smoothed.

        Args: face: (1, 3, S, S) in [-1, 1]. last: the state returned for the previous frame; None
            in a person's first. seconds: since the previous frame; infinite: no smoothing.
        Returns the new face (1, 3, S, S), and the state for the next frame.
        """
        place = self.place(face)  # (1, 5, 2)
        drawn, last_place, last_painted = last or (self.draw(1), place, None)
        people, noise, shift, ellipse = drawn
        place = place.lerp(last_place, self.PLACE_STAYS ** (25 * seconds))
        noisy = self.encode(face) + noise  # (1, 24, S/4, S/4)
        painted = self.generate(face, noisy, place + shift, people, ellipse)  # (1, 3, S, S)
        if last is not None:
            painted = painted.lerp(last_painted, self.PAINT_STAYS ** (25 * seconds))
        return self.paste(painted, face, ellipse), (drawn, place, painted)


def fit(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """(B, 2, 3) least-squares similarity transforms of points (B or 1, 5, 2) to points.

    As crop_sampler.similarity, but no error if points coincide: a network predicts them.
    """
    source_mean = source.mean(dim=1, keepdim=True)  # (B, 1, 2)
    target_mean = target.mean(dim=1, keepdim=True)  # (B, 1, 2)
    x, y = (source - source_mean).unbind(dim=2)  # (B, 5) each
    u, v = (target - target_mean).unbind(dim=2)  # (B, 5) each
    spread = (x * x + y * y).sum(dim=1).clamp(min=1e-3)  # (B,)
    a = (x * u + y * v).sum(dim=1) / spread  # (B,)
    b = (x * v - y * u).sum(dim=1) / spread  # (B,)
    linear = torch.stack([a, -b, b, a], dim=1).view(-1, 2, 2)  # (B, 2, 2)
    shift = target_mean[:, 0] - (linear * source_mean).sum(dim=2)  # (B, 2)
    return torch.cat([linear, shift[:, :, None]], dim=2)


def moved(points: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
    """Points (B or 1, n, 2) after the transforms `by` (B, 2, 3): (B, n, 2)."""
    # Not as a matrix product, which autocast would round to half precision.
    return (by[:, None, :, :2] * points[:, :, None]).sum(dim=3) + by[:, None, :, 2]


def conv(channels_in: int, channels_out: int, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    """A convolution that keeps the size, or halves it with a stride of 2."""
    padding = (kernel - 1) // 2
    return nn.Conv2d(channels_in, channels_out, kernel, stride=stride, padding=padding)


class ConditionalBlock(nn.Module):
    """x + conv(relu(scale * conv(relu(x)) + shift)), scale and shift from a style, if any."""

    def __init__(self, channels: int, style: int = 0):
        super().__init__()
        self.first = conv(channels, channels)
        self.second = conv(channels, channels)
        self.style = nn.Linear(style, 2 * channels) if style else None
        with torch.no_grad():
            self.second.weight.mul_(0.2)  # so that a block starts near the identity

    def forward(self, x: torch.Tensor, style: torch.Tensor | None = None) -> torch.Tensor:
        inner = self.first(F.relu(x))  # (B, C, h, w)
        if self.style is not None:
            inner = scaled_and_shifted(inner, self.style(style))
        return x + self.second(F.relu(inner))


def scaled_and_shifted(x: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
    """x (B, C, h, w) times 1 + the first half of `by` (B, 2C), plus the second half."""
    scale, shift = by[:, :, None, None].chunk(2, dim=1)  # (B, C, 1, 1) each
    return x * (1 + scale) + shift


class LandmarkReader(nn.Module):
    """A small network that reads the five landmarks of a face picture.

    Trained on originals, its error on modified faces shows whether a face and its pose are still
    there: the structure that the L1 term (eq. 3) is meant to keep. Ours: a landmark is the center
    of mass of a softmax over its map, at an eighth of the size; this learns in far fewer steps
    than a linear layer, which must learn each pixel's position.

    Args: size: side S of the pictures, px. norm: number of channels -> normalization layer.
    """

    def __init__(self, size: int, norm=nn.BatchNorm2d):
        super().__init__()
        self.size = size
        layers = []
        for channels, out, stride in ((3, 16, 2), (16, 32, 2), (32, 64, 2), (64, 64, 1)):
            layers += [conv(channels, out, stride=stride), norm(out), nn.ReLU()]
        self.body = nn.Sequential(*layers, conv(64, 5, kernel=1))

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Pictures (B, 3, S, S) in [-1, 1] to landmarks (B, 5, 2), px."""
        maps = self.body(pictures).float()  # (B, 5, S/8, S/8); half precision is too coarse for px
        share = maps.flatten(2).softmax(dim=2).view_as(maps)  # (B, 5, S/8, S/8), each sums to 1
        cells = torch.arange(maps.shape[2], device=maps.device)  # (S/8,)
        centers = (cells + 0.5) * self.size / maps.shape[2]  # (S/8,) px
        sums = torch.stack([share.sum(dim=2), share.sum(dim=3)], dim=2)  # (B, 5, 2, S/8)
        return (sums * centers).sum(dim=3)  # (B, 5, 2)


class CodeReader(nn.Module):
    """Identifies people from an Exchanger's code (B, 24, h, h): logits (B, N). M must fool it.

    Args: side: h. people: (N, E), the embeddings that M is given; stored here for the checkpoint.
    """

    def __init__(self, side: int, people: torch.Tensor):
        super().__init__()
        self.register_buffer("people", people)
        self.net = nn.Sequential(
            conv(24, 96),
            nn.LeakyReLU(0.2),
            conv(96, 96, kernel=4, stride=2),
            nn.LeakyReLU(0.2),
            conv(96, 192, kernel=4, stride=2),
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
    """D with the preset's sizes and any `recognizer_weights`, for `identities` people."""
    sizes = SphereFaceConfig(
        config.recognizer_depth, config.recognizer_width, config.embedding, config.crop_size
    )
    network = SphereFace(sizes)
    base = config.lambda_base
    if config.recognizer_weights:
        loop.load_public_weights(network, config.recognizer_weights)
        base = config.lambda_floor  # the schedule's start would undo the training
    margin = ASoftmaxLoss(
        config.margin, base, config.lambda_gamma, config.lambda_floor, config.recognizer_scale
    )
    return Recognizer(network, AngularMarginHead(config.embedding, identities), margin)


def make_detector(config, classes: int) -> ActionDetector:
    """A with the preset's sizes, for `classes` actions."""
    short, long = sorted((config.frame_height, config.frame_width))
    sizes = DetectorConfig(
        body=config.detector_body,
        classes=classes,
        weights=config.detector_weights or None,
        trainable_layers=config.detector_trainable,
        min_size=short,
        max_size=long,
    )
    return ActionDetector(sizes)


def aligned_crops(pictures, landmarks, size: tuple[int, int]) -> torch.Tensor:
    """D's input: crops (B, 3, h, w) BGR, aligned, of pictures (B, 3, S, S) RGB in [-1, 1] (Sec. 4).

    landmarks: (B, 5, 2) px of the *original* pictures, also for modified ones: a fair attacker may
    know where the face was, and a failed alignment would look like privacy. size: (h, w).
    """
    return recognizer_input(align_faces(pictures, landmarks, size))


def jitter_landmarks(landmarks: torch.Tensor, pixels: float) -> torch.Tensor:
    """Add Gaussian noise to landmarks (B, 5, 2), `pixels` at a crop height of 112 (ours)."""
    if pixels == 0:
        return landmarks
    eyes = (landmarks[:, 1] - landmarks[:, 0]).norm(dim=1)[:, None, None]  # (B, 1, 1) px
    return landmarks + torch.randn_like(landmarks) * pixels * eyes / EYE_DISTANCE


def jitter_colors(crops: torch.Tensor, strength: float) -> torch.Tensor:
    """Crops (B, 3, h, w) in [-1, 1], contrast and brightness changed by up to +- strength."""
    if strength == 0:
        return crops
    uniform = torch.rand(2, len(crops), 1, 1, 1, device=crops.device)
    contrast, brightness = (2 * uniform - 1) * strength  # (B, 1, 1, 1) each
    return (crops * (1 + contrast) + brightness).clamp(-1, 1)
