"""The face modifier M: a picture of a face goes in, a picture of another face comes out.

Paper: Ren, Lee, Ryoo, ECCV 2018, section 4, "Face Modification": the image-to-image network of
Johnson et al. (ECCV 2016, the paper's [20]) in the form Zhu et al. (ICCV 2017, [60]) gave it,
with nine residual blocks and instance normalization, on 256 x 256 pictures. Names such as
`c7s1-64` below are theirs.

    part             layer        what it does                              out (default)
    encoder          c7s1-64      reflect-pad 3, conv 7, IN, ReLU           64 x 256 x 256
                     d128, d256   conv 3 stride 2, IN, ReLU                 256 x 64 x 64
    residual_blocks  R256 x 9     x + (reflect-pad 1, conv 3, IN, ReLU,
                                  the same without ReLU)                    256 x 64 x 64
    decoder          u128, u64    upsample x2 with a 3 x 3 kernel, IN, ReLU 64 x 256 x 256
                     c7s1-3       reflect-pad 3, conv 7, tanh               3 x 256 x 256

The encoder lowers the resolution so that one 3 x 3 kernel spans much of a face. Each residual
block adds a correction to its input, so that the identity is easy to learn. There is no skip
connection from encoder to decoder (as in a U-Net): every pixel is newly generated, and only the
losses preserve anything of the original.

M is an *anonymizer* in the sense of this package: any callable
(B, 3, S, S) in [-1, 1] -> (B, 3, S, S) in [-1, 1], RGB. So are the baselines.
"""

from dataclasses import dataclass

import torch
from torch import nn

# Standard deviation of every conv weight at the start; biases start at 0 (Zhu et al.).
INIT_STD = 0.02
# Halved twice, a side of 8 becomes 2, the least that a reflect-pad of 1 can mirror.
SMALLEST_SIZE = 8

UPSAMPLERS = ("transposed", "resize")


@dataclass(frozen=True)
class ModifierConfig:
    """The size of M. The defaults are the paper's network: 11,378,179 parameters.

    width        channels after the first layer; 64 in Zhu et al.
    blocks       residual blocks; 9 in the paper, section 4.
    size         side S of the square pictures, pixels; 256 in the paper, section 4.
                 A multiple of 4, at least 8.
    upsample     "transposed": transposed conv, the original network. "resize" (ours, for the
                 small presets): nearest-neighbor x2, then a conv of the same kernel size,
                 without the checkerboard of a stride-2 transposed conv with a 3 x 3 kernel,
                 which touches neighboring output pixels 1, 2, 2 or 4 times.
    match_color  False: the paper's network. True (ours, for the small presets): before tanh,
                 each color channel p of the output becomes atanh(0.95 mean) + 2 std p, with
                 mean and standard deviation (over n - 1) of that channel of the input: M's
                 layers normalize brightness and contrast away.
    """

    width: int = 64
    blocks: int = 9
    size: int = 256
    upsample: str = "transposed"
    match_color: bool = False

    def __post_init__(self):
        if self.width < 1:
            raise ValueError(f"width must be at least 1, but is {self.width}.")
        if self.blocks < 0:
            raise ValueError(f"blocks must be 0 or more, but is {self.blocks}.")
        if self.size < SMALLEST_SIZE or self.size % 4 != 0:
            raise ValueError(
                f"size must be a multiple of 4 and at least {SMALLEST_SIZE}, but is {self.size}."
            )
        if self.upsample not in UPSAMPLERS:
            raise ValueError(f"upsample must be one of {UPSAMPLERS}, but is {self.upsample!r}.")


def instance_norm(channels: int) -> nn.Module:
    """Instance normalization (Ulyanov et al., the paper's [48]): each channel of each picture
    is brought to mean 0 and variance 1 over its own pixels.

    No learned scale or shift, and no running averages: `M.eval()` changes nothing, and the output
    of a face does not depend on the rest of its batch.

    channels: C of the (B, C, H, W) input. Source: Zhu et al. (eps 1e-5).
    """
    return nn.InstanceNorm2d(channels, eps=1e-5, affine=False, track_running_stats=False)


class ResidualBlock(nn.Module):
    """R256: a correction added to the input, (B, C, h, w) -> (B, C, h, w), both sides >= 2.

    No ReLU after the sum, so that a correction may be negative. Source: Johnson et al. and Zhu et
    al., after Gross and Wilber, who first left that last ReLU out.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.correction = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, kernel_size=3),
            instance_norm(channels),
            nn.ReLU(inplace=True),
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, kernel_size=3),
            instance_norm(channels),
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features + self.correction(features)


def _full_size_conv(channels_in: int, channels_out: int) -> list[nn.Module]:
    """c7s1-k without norm and activation. Zero padding would leave a dark frame at the border."""
    return [nn.ReflectionPad2d(3), nn.Conv2d(channels_in, channels_out, kernel_size=7)]


def _downsample(channels_in: int) -> list[nn.Module]:
    """dk: half the side, twice the channels."""
    return [
        nn.Conv2d(channels_in, 2 * channels_in, kernel_size=3, stride=2, padding=1),
        instance_norm(2 * channels_in),
        nn.ReLU(inplace=True),
    ]


def _upsample(channels_in: int, upsample: str) -> list[nn.Module]:
    """uk: twice the side, half the channels."""
    channels_out = channels_in // 2
    if upsample == "transposed":
        # output_padding 1 makes the output exactly 2h; without it, it would be 2h - 1.
        convs = [nn.ConvTranspose2d(channels_in, channels_out, 3, 2, padding=1, output_padding=1)]
    else:
        convs = [
            nn.Upsample(scale_factor=2, mode="nearest"),
            nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1),
        ]
    return [*convs, instance_norm(channels_out), nn.ReLU(inplace=True)]


class Modifier(nn.Module):
    """M of the paper (sections 3 and 4, Fig. 2). Its attribute `size` is S, as in ModifierConfig.

    >>> modifier = Modifier(ModifierConfig(width=8, blocks=2, size=64, upsample="resize"))
    >>> modifier(torch.zeros(5, 3, 64, 64)).shape
    torch.Size([5, 3, 64, 64])
    """

    def __init__(self, config: ModifierConfig = ModifierConfig()):
        super().__init__()
        self.config = config
        self.size = config.size
        width = config.width
        self.encoder = nn.Sequential(
            *_full_size_conv(3, width),
            instance_norm(width),
            nn.ReLU(inplace=True),
            *_downsample(width),
            *_downsample(2 * width),
        )
        self.residual_blocks = nn.Sequential(
            *(ResidualBlock(4 * width) for _ in range(config.blocks))
        )
        self.decoder = nn.Sequential(
            *_upsample(4 * width, config.upsample),
            *_upsample(2 * width, config.upsample),
            *_full_size_conv(width, 3),
        )
        self.apply(_initialize)

    def forward(self, faces: torch.Tensor) -> torch.Tensor:
        """Modify a batch of face pictures.

        faces: (B, 3, S, S), RGB in [-1, 1], S = self.size; B may be 0 (a batch of frames in
        which no face was found). Returns the modified pictures, same shape, in [-1, 1].
        Raises ValueError for any other shape.
        """
        wanted = (3, self.size, self.size)
        if faces.shape[1:] != wanted:
            raise ValueError(f"faces must be (B, *{wanted}), but is {tuple(faces.shape)}.")
        if len(faces) == 0:
            return faces  # instance norm cannot take an empty batch
        features = self.encoder(faces)  # (B, 4 * width, S / 4, S / 4)
        features = self.residual_blocks(features)  # (B, 4 * width, S / 4, S / 4)
        output = self.decoder(features)  # (B, 3, S, S)
        if self.config.match_color:
            output = _match_color(output, faces)  # (B, 3, S, S)
        return torch.tanh(output)  # the range of a picture in this package, [-1, 1]


def _match_color(output: torch.Tensor, faces: torch.Tensor) -> torch.Tensor:
    """`output` (B, 3, S, S), before tanh, shifted and scaled to the color statistics of `faces`."""
    mean = faces.mean(dim=(2, 3), keepdim=True)  # (B, 3, 1, 1)
    std = faces.std(dim=(2, 3), keepdim=True)  # (B, 3, 1, 1)
    # 0.95: atanh is infinite at pure black and white. 2: tanh flattens, which lowers the std.
    return torch.atanh(0.95 * mean) + 2 * std * output


def _initialize(layer: nn.Module) -> None:
    if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(layer.weight, mean=0.0, std=INIT_STD)
        nn.init.zeros_(layer.bias)
