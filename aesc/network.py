"""AESc: an autoencoder whose skip connections are added (arXiv 2008.12977, section III-A).

Differences from the authors' code, all of them said in docs/method.md: the upsampling convolution is computed in its
4-phase form (equal to upsampling and a 5x5 convolution), dropout takes an explicit generator and can draw one mask
for a whole batch, and the depth follows from the image size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aesc.empty_conv import EmptyConv2d
from aesc.matrix_convolution import convolve
from aesc.params import Params
from aesc.segmentation import SegmentationHead
from aesc.upsampling import UpsampleConv

Skip = Literal["add", "none", "concat"]

LEAKY_SLOPE = 0.01
BOTTLENECK_SIDE = 4
FIRST_MAPS = 16
MOST_MAPS = 512


def depth_of(image_size: int) -> int:
    """Encoder levels that bring a square image of `image_size` pixels (64 to 1024) to 4 x 4."""
    return int(math.log2(image_size // BOTTLENECK_SIDE))


def dropout_levels(levels: tuple[float, ...], depth: int) -> tuple[float, ...]:
    """Dropout rates for `depth` encoder levels, aligned at the bottleneck.

    The paper gives six rates for 256 x 256. A shallower network keeps the deepest ones; a deeper one gets zeros
    in front, so that the bottleneck always has the last rate.
    """
    return (0.0,) * max(0, depth - len(levels)) + levels[max(0, len(levels) - depth) :]


def dropout(x: Tensor, rate: float, generator: torch.Generator | None, *, shared: bool) -> Tensor:
    """Elementwise inverted dropout of `x` (batch x maps x height x width) drawn from `generator`; None switches it off.

    `shared` draws one mask for the whole batch, so that what an image gets does not depend on its neighbours. Masks are
    drawn where the generator lives.
    """
    if generator is None or rate == 0.0:
        return x
    if shared:
        scale = dropout_mask((1, *x.shape[1:]), rate, generator)
    else:
        scale = _training_mask(x.shape, rate, generator, x.dtype)
    return x * scale.to(x.device, x.dtype, non_blocking=True)


def dropout_mask(shape: tuple[int, int, int, int] | torch.Size, rate: float, generator: torch.Generator) -> Tensor:
    """What inverted dropout multiplies by: 0, or 1 / (1 - rate); float32 on the generator's device, in channels_last
    memory. On a CPU uniform numbers take half the time of PyTorch's Bernoulli ones."""
    batch, maps, height, width = shape
    drawn = torch.rand(batch, height, width, maps, generator=generator, device=generator.device)
    return ((drawn >= rate) / (1.0 - rate)).permute(0, 3, 1, 2)


def _training_mask(shape: torch.Size, rate: float, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    """A mask as `dropout_mask` draws it; on a CPU of 16 random bits an element and in the type that is asked for, which
    takes half the time: the rate is rounded to a multiple of 2 ** -16."""
    if generator.device.type != "cpu":
        return dropout_mask(shape, rate, generator)
    batch, maps, height, width = shape
    bits = torch.empty(math.ceil(shape.numel() / 4), dtype=torch.int64).random_(-(2**63), None, generator=generator)
    drawn = bits.view(torch.int16)[: shape.numel()].view(batch, height, width, maps)
    return (drawn >= round(rate * 2**16) - 2**15).to(dtype).div_(1.0 - rate).permute(0, 3, 1, 2)


class Down(nn.Module):
    """Convolution 5x5 stride 2, batch norm, LeakyReLU: halves the side."""

    def __init__(self, maps_in: int, maps_out: int) -> None:
        super().__init__()
        self.conv = EmptyConv2d(maps_in, maps_out, 5, stride=2, padding=2, bias=False)
        self.norm = nn.BatchNorm2d(maps_out)

    def forward(self, x: Tensor) -> Tensor:
        products = convolve(x, self.conv.weight, stride=2, padding=2)
        return F.leaky_relu(self.norm(products), LEAKY_SLOPE, inplace=True)


class Up(UpsampleConv):
    """Nearest x2 upsampling, convolution 5x5, batch norm, LeakyReLU: doubles the side."""

    def __init__(self, maps_in: int, maps_out: int) -> None:
        super().__init__(maps_in, maps_out)
        self.norm = nn.BatchNorm2d(maps_out)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.norm(self.products(x)), LEAKY_SLOPE, inplace=True)


class Head(UpsampleConv):
    """Nearest x2 upsampling, convolution 5x5 and a sigmoid: back to an image in [0, 1]."""

    def __init__(self, maps_in: int, channels: int) -> None:
        super().__init__(maps_in, channels)
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.products(x, self.bias).float())


class AESc(nn.Module):
    """Autoencoder with skip connections: batch x channels x side x side in [0, 1] to the same.

    Args:
        image_size: side of the square input in pixels, a power of two from 64 to 1024.
        channels: 1 (grey) or 3 (RGB).
        skip: "add" is AESc; "none" the plain autoencoder; "concat" the U-Net-like relative.
        first_skip: the encoder level of the first skip connection, 0 that of half the side; there is none before it.
        dropout: rates by encoder depth, mirrored in the decoder; see `dropout_levels`.
        segmentation: whether there is a `SegmentationHead` beside it, which `forward` does not use.
    """

    segmentation: SegmentationHead | None

    def __init__(
        self,
        *,
        image_size: int = 256,
        channels: int = 3,
        skip: Skip = "add",
        first_skip: int = 0,
        dropout: tuple[float, ...] = (),
        segmentation: bool = False,
    ) -> None:
        super().__init__()
        depth = depth_of(image_size)
        maps = [min(FIRST_MAPS * 2**level, MOST_MAPS) for level in range(depth)]
        self.image_size = image_size
        self.channels = channels
        self.skip = skip
        self.first_skip = first_skip
        self.rates = dropout_levels(dropout, depth)
        self.encoder = nn.ModuleList(Down(i, o) for i, o in zip([channels, *maps[:-1]], maps, strict=True))
        decoded = [2 * maps[level] if skip == "concat" and self.joins(level) else maps[level] for level in range(depth)]
        self.decoder = nn.ModuleList(Up(decoded[level + 1], maps[level]) for level in reversed(range(depth - 1)))
        self.head = Head(decoded[0], channels)
        self.segmentation = SegmentationHead(channels) if segmentation else None

    def joins(self, level: int) -> bool:
        """Whether the decoder gets what the encoder made at `level`; the bottleneck is not its own skip."""
        return self.skip != "none" and self.first_skip <= level < len(self.rates) - 1

    def forward(
        self, images: Tensor, *, generator: torch.Generator | None = None, shared_dropout: bool = False
    ) -> Tensor:
        """Reconstruct `images` (batch x channels x side x side); with a `generator`, dropout is on.

        `shared_dropout` draws one dropout mask a layer for the whole batch.
        """
        levels = self.encode(images, generator=generator, shared_dropout=shared_dropout)
        return self.decode(levels, generator=generator, shared_dropout=shared_dropout)

    def encode(
        self, images: Tensor, *, generator: torch.Generator | None = None, shared_dropout: bool = False
    ) -> list[Tensor]:
        """What each encoder level makes of `images`: batch x maps x side x side, the bottleneck last."""
        x = images
        levels: list[Tensor] = []
        for down, rate in zip(self.encoder, self.rates, strict=True):
            x = dropout(down(x), rate, generator, shared=shared_dropout)
            levels.append(x)
        return levels

    def decode(
        self, levels: Sequence[Tensor], *, generator: torch.Generator | None = None, shared_dropout: bool = False
    ) -> Tensor:
        """The reconstruction from what `encode` returned."""
        x = levels[-1]
        for number, up in zip(reversed(range(len(levels) - 1)), self.decoder, strict=True):
            x = dropout(up(x), self.rates[number], generator, shared=shared_dropout)
            if self.joins(number):
                x = x + levels[number] if self.skip == "add" else torch.cat([x, levels[number]], dim=1)
        reconstruction: Tensor = self.head(x)
        return reconstruction

    def keep_phases(self) -> AESc:
        """The network itself, faster as long as its weights stay as they are and neither `train` nor `eval` is called.

        The decoder's kernels are brought to their four phases now instead of in each pass, where they take a CPU as
        long as half of the reconstruction of one image. They are 25 MB at 256 x 256.
        """
        for layer in self.modules():
            if isinstance(layer, UpsampleConv):
                layer.keep_phases()
        return self


def build_network(
    *,
    image_size: int,
    channels: int,
    skip: Skip,
    dropout: tuple[float, ...],
    generator: torch.Generator,
    first_skip: int = 0,
    segmentation: bool = False,
) -> AESc:
    """A new network in channels_last memory, its weights drawn from `generator` alone (Glorot uniform, as in Keras)."""
    network = AESc(
        image_size=image_size,
        channels=channels,
        skip=skip,
        first_skip=first_skip,
        dropout=dropout,
        segmentation=segmentation,
    )
    for parameter in network.parameters():
        if parameter.dim() == 4:
            nn.init.xavier_uniform_(parameter, generator=generator)
    return to_channels_last(network)


def network_for(params: Params, *, channels: int, generator: torch.Generator) -> AESc:
    """A new network as `data` and `network` of the parameters say."""
    return build_network(
        image_size=params.data.image_size,
        channels=channels,
        skip=params.network.skip,
        first_skip=params.network.first_skip,
        dropout=params.network.dropout,
        generator=generator,
        segmentation=params.network.segmentation,
    )


def to_channels_last(network: AESc) -> AESc:
    """`network` itself, its weights in the memory order that convolutions are fastest in."""
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in PyTorch's stubs
    return network


def in_memory_order(tensor: Tensor) -> Tensor:
    """A view whose axes follow the memory of a channels_last tensor of 4 axes; others as they are."""
    return tensor.permute(0, 2, 3, 1) if tensor.dim() == 4 else tensor
