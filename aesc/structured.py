"""Structured corruption: blobs that vary in shape, size, texture, opacity and edge, for training toward real defects.

The stain's descendant, after Bauer, Nakajima & Mueller (arXiv 2206.11723) and Bauer & Mueller (arXiv 2511.07233): a
corruption as varied as what may go wrong with a part. Each blob is a bent, noisy ellipse, filled with a grey level, a
colour, a noise texture, a piece of another image, another piece of the same image, or the image itself made brighter
or darker.

On a CPU a blob is computed in the box around it (aesc/blob_loops.py); on a GPU on whole images, so that nothing waits
for the host and nothing is scattered, which costs more there than the pixels saved. Both give the same corruption.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from aesc import blob_loops
from aesc.blob_loops import BANK_SIDE, LEAST_OPACITY, MASK_OPACITY, REACH, Blobs
from aesc.params import FILLS, Fill, Structured
from aesc.plain_ground import drawn_cells, off_plain_ground

_BANK_SEED = 7
_OUTLINES = (16, 32, 64, 128)  # cells a side of the noise that makes outlines irregular
_TEXTURES = (8, 16, 32, 64)  # cells a side of the coarsest octave of the noise that fills
_ROUGHNESS = 0.65  # amplitude of each octave against the one below
_FLAT_TEXTURE = 0.03  # standard deviation of the noise in flat fillings
_HARD_EDGE = 0.3  # pixels
_THINNEST = 1.2  # pixels, half-width


def paint_structured(
    images: Tensor, *, params: Structured, generator: torch.Generator, original: Tensor | None = None
) -> Tensor:
    """Paint 1 to `params.blobs` blobs on every image, in place.

    Args:
        images: batch x channels x side x side in [0, 1].
        params: number, sizes, opacities and fillings.
        generator: on the images' device; the same state gives the same corruption.
        original: what `images` are copies of, where it is still there; fillings are taken from it.

    Returns:
        Where they were changed: batch x 1 x side x side, bool (a pixel of a soft edge counts from opacity 0.3).
    """
    batch, _, side, _ = images.shape
    pixels = images.permute(0, 2, 3, 1)
    source = pixels.clone() if original is None else original.permute(0, 2, 3, 1)
    mask = torch.zeros(batch, side, side, dtype=torch.bool, device=images.device)
    blobs, bank = _draw(images, params, generator), _bank(images.device)
    paint = blob_loops.paint if images.device.type == "cpu" else paint_whole
    paint(pixels, mask, source, blobs, bank, params)
    return mask[:, None]


def _draw(images: Tensor, params: Structured, generator: torch.Generator) -> Blobs[Tensor]:
    """Everything random, for all blobs at once."""
    batch, channels, side, _ = images.shape
    device = images.device

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(params.blobs, batch, *shape, generator=generator, device=device)

    def integer(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, (params.blobs, batch, *shape), generator=generator, device=device)

    count = torch.randint(1, params.blobs + 1, (batch, 1, 1), generator=generator, device=device)
    numbers = torch.arange(params.blobs, device=device)[:, None, None, None]
    long = uniform(math.log(params.size[0]), math.log(params.size[1]), 1, 1).exp() * side
    slender = uniform(math.log(params.aspect), 0.0, 1, 1).exp()
    turn = uniform(0.0, math.pi, 1, 1)
    soft = uniform(0.0, 1.0, 1, 1) < 0.5
    edge = torch.where(soft, uniform(_HARD_EDGE, params.softest_edge * side, 1, 1), _HARD_EDGE)
    fill = _numbers(params.fills, device)[integer(0, len(params.fills))]

    def of(*names: Fill) -> Tensor:
        return torch.stack([fill == FILLS.index(name) for name in names]).any(dim=0)

    grey, noise, other, gain = of("grey"), of("noise"), of("other"), of("gain")
    flat = of("grey", "colour", "noise")
    elsewhere = integer(side // 16, side // 3, 2) * (2 * integer(0, 2, 2) - 1)
    shift = torch.where(other[..., None], integer(0, side, 2), elsewhere)
    shift = torch.where(gain[..., None], 0, shift)
    items = torch.arange(batch, device=device)
    neighbour = (items + integer(1, max(batch, 2))) % batch
    level = torch.where(_deep(grey), uniform(0.0, 1.0, 1, 1, 1), uniform(0.0, 1.0, 1, 1, channels))
    brighter = uniform(-0.15, 0.15, 1, 1, 1)
    level = torch.where(_deep(flat), level, torch.where(_deep(gain), brighter, 0.0))
    gained = torch.where(_deep(gain), uniform(-0.8, 0.8, 1, 1, 1).exp(), 1.0)
    roughness = torch.where(_deep(noise), uniform(0.05, 0.3, 1, 1, 1), _FLAT_TEXTURE)
    centre = integer(0, side, 2)
    if params.on_plain_ground < 1.0:
        cells = drawn_cells(images, most_on_plain=params.on_plain_ground)
        centre = off_plain_ground(centre.transpose(0, 1), cells, side).transpose(0, 1)
    return Blobs(
        there=(numbers < count).float(),
        long=long,
        short=(long * slender).clamp(min=_THINNEST),
        cos=turn.cos(),
        sin=turn.sin(),
        bend=uniform(-params.bend, params.bend, 1, 1) / long,
        edge=edge,
        opacity=uniform(*params.opacity, 1, 1),
        centre=centre,
        outline=integer(0, len(_OUTLINES)),
        texture=integer(len(_OUTLINES), len(_OUTLINES) + len(_TEXTURES)),
        at=integer(0, BANK_SIDE, 4),
        source=torch.where(other, neighbour, items),
        shift=shift,
        gain=torch.where(_deep(flat), 0.0, gained),
        level=level,
        roughness=torch.where(_deep(flat), roughness, 0.0),
    )


def paint_whole(
    pixels: Tensor, mask: Tensor, source: Tensor, blobs: Blobs[Tensor], bank: Tensor, params: Structured
) -> None:
    """`aesc.blob_loops.paint` for a GPU: one blob after the other, each on whole images."""
    for number in range(len(blobs.there)):
        _paint(pixels, mask, source, Blobs._make(values[number] for values in blobs), bank, params)


def _paint(pixels: Tensor, mask: Tensor, source: Tensor, draw: Blobs[Tensor], bank: Tensor, params: Structured) -> None:
    """Paint one blob on each image, in place; `draw` is without its first dimension."""
    side = pixels.shape[1]
    steps = torch.arange(side, device=pixels.device)
    rows, columns = steps[None, :, None], steps[None, None, :]
    dy = rows - draw.centre[:, 0, None, None]
    dx = columns - draw.centre[:, 1, None, None]

    def noise(layer: Tensor, at: Tensor) -> Tensor:
        y, x = dy + at[:, 0, None, None], dx + at[:, 1, None, None]
        return bank[layer[:, None, None], y % BANK_SIDE, x % BANK_SIDE]

    shape = _shape(draw, dy, dx, noise(draw.outline, draw.at[:, :2]), params.irregularity)
    elsewhere = source[
        draw.source[:, None, None],
        (rows + draw.shift[:, 0, None, None]) % side,
        (columns + draw.shift[:, 1, None, None]) % side,
    ]
    grain = noise(draw.texture, draw.at[:, 2:])[..., None]
    _blend(pixels, mask, draw, shape, draw.gain * elsewhere + draw.level + draw.roughness * grain)


def _shape(draw: Blobs[Tensor], dy: Tensor, dx: Tensor, outline: Tensor, irregularity: float) -> Tensor:
    """How much of the blob each pixel has, in [0, 1]: batch x height x width."""
    along = dx * draw.cos + dy * draw.sin
    across = dy * draw.cos - dx * draw.sin + draw.bend * along.square()
    radius = torch.hypot(along / draw.long, across / draw.short)
    depth = (1.0 - radius + irregularity * outline) * draw.short  # about pixels inside the outline
    shape = torch.sigmoid(depth / draw.edge) * (radius < REACH) * draw.there
    return torch.where(shape > LEAST_OPACITY, shape, 0.0)


def _blend(pixels: Tensor, mask: Tensor, draw: Blobs[Tensor], shape: Tensor, filling: Tensor) -> None:
    """Lay the filling over pixels (batch x height x width x channels), in place."""
    pixels.lerp_(filling.clamp(0.0, 1.0), (shape * draw.opacity)[..., None])
    mask |= shape > MASK_OPACITY


def _deep(condition: Tensor) -> Tensor:
    return condition[..., None, None, None]


@cache
def _numbers(fills: tuple[Fill, ...], device: torch.device) -> Tensor:
    """The numbers of the fillings, kept: making them on a GPU waits for it."""
    return torch.tensor([FILLS.index(name) for name in fills], device=device)


@cache
def _bank(device: torch.device) -> Tensor:
    """Periodic noise of mean 0 and standard deviation 1: layers x BANK_SIDE x BANK_SIDE, always the same."""
    stream = torch.Generator().manual_seed(_BANK_SEED)
    layers = [_periodic_noise(cells, stream) for cells in _OUTLINES]
    for coarsest in _TEXTURES:
        octaves = int(math.log2(BANK_SIDE // coarsest)) + 1
        texture = sum(_ROUGHNESS**octave * _periodic_noise(coarsest * 2**octave, stream) for octave in range(octaves))
        layers.append(_standardised(torch.as_tensor(texture)))
    return torch.stack(layers).to(device)


def _periodic_noise(cells: int, stream: torch.Generator) -> Tensor:
    """White noise on cells x cells, interpolated to BANK_SIDE; its left edge continues its right one."""
    scale = BANK_SIDE // cells
    padded = F.pad(torch.randn(1, 1, cells, cells, generator=stream), (2, 2, 2, 2), mode="circular")
    large = F.interpolate(padded, scale_factor=scale, mode="bicubic", align_corners=False)[0, 0]
    return _standardised(large[2 * scale : -2 * scale, 2 * scale : -2 * scale])


def _standardised(noise: Tensor) -> Tensor:
    return (noise - noise.mean()) / noise.std()
