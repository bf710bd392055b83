"""Structured corruption: blobs that vary in shape, size, texture, opacity and edge, for training toward real defects.

The stain's descendant, after Bauer, Nakajima & Mueller (arXiv 2206.11723) and Bauer & Mueller (arXiv 2511.07233): a
corruption as varied as what may go wrong with a part. Each blob is a bent, noisy ellipse, filled with a grey level, a
colour, a noise texture, a piece of another image, another piece of the same image, or the image itself made brighter
or darker.

On a CPU a blob is computed in the box around it; on a GPU on whole images, so that nothing waits for the host and
nothing is scattered, which costs more there than the pixels saved. Both give the same corruption.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from aesc.params import FILLS, Fill, Structured
from aesc.plain_ground import drawn_cells, off_plain_ground

BANK_SIDE = 512
_BANK_SEED = 7
_OUTLINES = (16, 32, 64, 128)  # cells a side of the noise that makes outlines irregular
_TEXTURES = (8, 16, 32, 64)  # cells a side of the coarsest octave of the noise that fills
_ROUGHNESS = 0.65  # amplitude of each octave against the one below
_REACH = 1.5  # ellipse radii after which a blob is cut off
_FLAT_TEXTURE = 0.03  # standard deviation of the noise in flat fillings
_HARD_EDGE = 0.3  # pixels
_LEAST_OPACITY = 0.02  # below it an edge is cut off
_MASK_OPACITY = 0.3  # of a soft edge, from which a pixel counts as corrupted
_THINNEST = 1.2  # pixels, half-width


class _Draw(NamedTuple):
    """One blob an image. Tensors of batch x 1 x 1 if not said otherwise; lengths in pixels."""

    there: Tensor  # 1.0 or 0.0: images have different numbers of blobs
    long: Tensor
    short: Tensor
    cos: Tensor
    sin: Tensor
    bend: Tensor
    edge: Tensor
    opacity: Tensor
    centre: Tensor  # batch x 2 (y, x), integers
    outline: Tensor  # (batch,) layer of the bank
    texture: Tensor
    at: Tensor  # batch x 4: where in the bank outline (y, x) and texture (y, x) are taken
    source: Tensor  # (batch,) which image of the batch the filling is taken from
    shift: Tensor  # batch x 2: and how far from the same place
    gain: Tensor  # batch x 1 x 1 x 1, of that image in the filling
    level: Tensor  # batch x 1 x 1 x channels, added to it
    roughness: Tensor  # batch x 1 x 1 x 1, amplitude of the texture added to it


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
    bank = _bank(images.device)
    for draw in _draw(images, params, generator):
        if images.device.type == "cpu":
            blobs = map(_Draw._make, zip(*(value.split(1) for value in draw), strict=True))
            there = draw.there.flatten().tolist()
            for item, (box, blob) in enumerate(zip(_boxes(draw, side), blobs, strict=True)):
                if there[item]:
                    _paint_box(pixels[item], mask[item], source, blob, bank, params, box=box)
        else:
            _paint_whole(pixels, mask, source, draw, bank, params)
    return mask[:, None]


def _draw(images: Tensor, params: Structured, generator: torch.Generator) -> list[_Draw]:
    """Everything random, for each blob number in turn."""
    batch, channels, side, _ = images.shape
    device = images.device

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(batch, *shape, generator=generator, device=device)

    def integer(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, (batch, *shape), generator=generator, device=device)

    most = params.on_plain_ground
    cells = drawn_cells(images, most_on_plain=most) if most < 1.0 else None

    def place() -> Tensor:
        anywhere = integer(0, side, 2)
        return anywhere if cells is None else off_plain_ground(anywhere, cells, side)

    count = integer(1, params.blobs + 1, 1, 1)
    allowed = _numbers(params.fills, device)
    draws = []
    for number in range(params.blobs):
        long = uniform(math.log(params.size[0]), math.log(params.size[1]), 1, 1).exp() * side
        slender = uniform(math.log(params.aspect), 0.0, 1, 1).exp()
        turn = uniform(0.0, math.pi, 1, 1)
        soft = uniform(0.0, 1.0, 1, 1) < 0.5
        edge = torch.where(soft, uniform(_HARD_EDGE, params.softest_edge * side, 1, 1), _HARD_EDGE)
        fill = allowed[integer(0, len(params.fills))]

        def of(*names: Fill, fill: Tensor = fill) -> Tensor:
            return torch.stack([fill == FILLS.index(name) for name in names]).any(dim=0)

        flat = of("grey", "colour", "noise")
        elsewhere = integer(side // 16, side // 3, 2) * (2 * integer(0, 2, 2) - 1)
        shift = torch.where(of("other")[:, None], integer(0, side, 2), elsewhere)
        shift = torch.where(of("gain")[:, None], 0, shift)
        neighbour = (torch.arange(batch, device=device) + integer(1, max(batch, 2))) % batch
        colour = uniform(0.0, 1.0, 1, 1, channels)
        level = torch.where(_deep(of("grey")), uniform(0.0, 1.0, 1, 1, 1), colour)
        brighter = uniform(-0.15, 0.15, 1, 1, 1)
        level = torch.where(_deep(flat), level, torch.where(_deep(of("gain")), brighter, 0.0))
        gain = torch.where(_deep(of("gain")), uniform(-0.8, 0.8, 1, 1, 1).exp(), 1.0)
        roughness = torch.where(_deep(of("noise")), uniform(0.05, 0.3, 1, 1, 1), _FLAT_TEXTURE)
        draws.append(
            _Draw(
                there=(number < count).float(),
                long=long,
                short=(long * slender).clamp(min=_THINNEST),
                cos=turn.cos(),
                sin=turn.sin(),
                bend=uniform(-params.bend, params.bend, 1, 1) / long,
                edge=edge,
                opacity=uniform(*params.opacity, 1, 1),
                centre=place(),
                outline=integer(0, len(_OUTLINES)),
                texture=integer(len(_OUTLINES), len(_OUTLINES) + len(_TEXTURES)),
                at=integer(0, BANK_SIDE, 4),
                source=torch.where(of("other"), neighbour, torch.arange(batch, device=device)),
                shift=shift,
                gain=torch.where(_deep(flat), 0.0, gain),
                level=level,
                roughness=torch.where(_deep(flat), roughness, 0.0),
            )
        )
    return draws


def _paint_whole(pixels: Tensor, mask: Tensor, source: Tensor, draw: _Draw, bank: Tensor, params: Structured) -> None:
    """Paint one blob on each image, in place."""
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


def _paint_box(
    pixels: Tensor, mask: Tensor, source: Tensor, draw: _Draw, bank: Tensor, params: Structured, *, box: list[int]
) -> None:
    """Paint one blob on one image (side x side x channels), in place, as `_paint_whole` does.

    `box` is top, left, bottom and right of where it may be.
    """
    top, left, bottom, right = box
    size = (bottom - top, right - left)
    (y, x), (down, across), at = (value[0].tolist() for value in (draw.centre, draw.shift, draw.at))
    dy = torch.arange(top - y, bottom - y)[None, :, None]
    dx = torch.arange(left - x, right - x)[None, None, :]

    def noise(layer: Tensor, at: Sequence[int]) -> Tensor:
        return _cut(bank[int(layer)], top - y + at[0], left - x + at[1], size)[None]

    shape = _shape(draw, dy, dx, noise(draw.outline, at[:2]), params.irregularity)
    if float(draw.gain) == 0.0:  # filled with a level and noise, with no image
        filling = draw.level + draw.roughness * noise(draw.texture, at[2:])[..., None]
    else:
        filling = draw.gain * _cut(source[int(draw.source)], top + down, left + across, size) + draw.level
    inside = slice(top, bottom), slice(left, right)
    _blend(pixels[inside][None], mask[inside][None], draw, shape, filling)


def _shape(draw: _Draw, dy: Tensor, dx: Tensor, outline: Tensor, irregularity: float) -> Tensor:
    """How much of the blob each pixel has, in [0, 1]: batch x height x width."""
    along = dx * draw.cos + dy * draw.sin
    across = dy * draw.cos - dx * draw.sin + draw.bend * along.square()
    radius = torch.hypot(along / draw.long, across / draw.short)
    depth = (1.0 - radius + irregularity * outline) * draw.short  # about pixels inside the outline
    shape = torch.sigmoid(depth / draw.edge) * (radius < _REACH) * draw.there
    return torch.where(shape > _LEAST_OPACITY, shape, 0.0)


def _blend(pixels: Tensor, mask: Tensor, draw: _Draw, shape: Tensor, filling: Tensor) -> None:
    """Lay the filling over pixels (batch x height x width x channels), in place."""
    pixels.lerp_(filling.clamp(0.0, 1.0), (shape * draw.opacity)[..., None])
    mask |= shape > _MASK_OPACITY


def _boxes(draw: _Draw, side: int) -> list[list[int]]:
    """What of the image each blob cannot be outside of: top, left, bottom, right, the last two excluded.

    Along its axis a blob ends at `_REACH` semi-major axes; across, at `_REACH` semi-minor ones from where its axis is
    bent to.
    """
    far = _REACH * draw.long
    bent = draw.bend * far.square()
    near = torch.cat([-far, far], dim=1)
    wide = torch.cat([-_REACH * draw.short - bent.clamp(min=0.0), _REACH * draw.short - bent.clamp(max=0.0)], dim=1)
    dy = (near * draw.sin)[:, :, None] + (wide * draw.cos)[:, None, :]
    dx = (near * draw.cos)[:, :, None] - (wide * draw.sin)[:, None, :]
    corners = torch.stack([dy.flatten(1), dx.flatten(1)], dim=1)
    first = draw.centre + corners.amin(dim=2).floor()
    last = draw.centre + corners.amax(dim=2).ceil() + 1.0
    boxes: list[list[int]] = torch.cat([first, last], dim=1).clamp(0, side).long().tolist()
    return boxes


def _cut(plane: Tensor, top: int, left: int, size: tuple[int, int]) -> Tensor:
    """height x width x ... of a plane (side x side x ...) that goes on with its other edge behind each edge."""
    side = len(plane)
    top, left = top % side, left % side
    height, width = size
    if top + height <= side and left + width <= side:
        return plane[top : top + height, left : left + width]
    rows, columns = (top + torch.arange(height)) % side, (left + torch.arange(width)) % side
    return plane.index_select(0, rows).index_select(1, columns)


def _deep(condition: Tensor) -> Tensor:
    return condition[:, None, None, None]


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
