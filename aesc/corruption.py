"""Synthetic defects for training and calibration: stain, scratch, drops, noise (arXiv 2008.12977, section III-B).

Everything is batched tensor arithmetic on the device of the images and draws from one explicit generator. On a CPU a
local corruption is computed in a window around it, each stain in a box of its own size (aesc/boxes.py). Elsewhere it is
computed on whole images: no device is asked how large it is, and scattering costs a GPU more than the pixels saved.
Differences from the authors' code, also in docs/method.md: the stain is written in polar form, an ellipse's radius
times a cubic interpolation over the angle, and a blurred edge is the Gaussian blur of a straight edge, evaluated by
distance.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from aesc.boxes import Outline, paint_boxes
from aesc.params import BLUR_REACH, Corruption
from aesc.structured import paint_structured

STAIN_POINTS = 20
STAIN_ANGLES = 256  # resolution of the radius table; linear in between

# Of the image side. The paper names these corruptions without numbers.
SCRATCH_HALF_LENGTH = (0.05, 0.15)
SCRATCH_HALF_WIDTH = (0.002, 0.006)
SCRATCH_AMPLITUDE = (0.0, 0.04)
SCRATCH_WAVELENGTH = (0.08, 0.3)
DROPS = 10
DROP_RADIUS = (0.004, 0.02)
DROPS_SPREAD = (0.03, 0.1)


class Shape(NamedTuple):
    """Opacity in a window: batch x window x window in [0, 1], and the window's upper left corner, batch x 2 (y, x)."""

    opacity: Tensor
    corner: Tensor


def corrupt(
    images: Tensor, *, params: Corruption, generator: torch.Generator, inplace: bool = False
) -> tuple[Tensor, Tensor]:
    """Draw one corruption on every image.

    Args:
        images: batch x channels x side x side in [0, 1]; left as they are unless `inplace`.
        params: kind and ranges.
        generator: on the images' device; the same state gives the same corruption.
        inplace: corrupt `images` themselves, which saves the copy of a batch that is not needed clean any more.

    Returns:
        The corrupted images, same shape, and where they were changed: batch x 1 x side x side, bool (a pixel of a soft
        edge counts from opacity 0.5).
    """
    batch, _, side, _ = images.shape
    mask = torch.zeros(batch, 1, side, side, dtype=torch.bool, device=images.device)
    corrupted = images if inplace else images.clone()
    if params.kind == "none":
        return corrupted, mask
    if params.kind == "gaussian":
        noise = torch.randn(images.shape, generator=generator, device=images.device)
        return corrupted.add_(noise, alpha=params.gaussian_std).clamp_(0.0, 1.0), ~mask
    if params.kind == "structured":
        original = None if inplace else images
        return corrupted, paint_structured(corrupted, params=params.structured, generator=generator, original=original)
    if params.kind == "stain":
        outline = _stain(batch, side, params, generator, images.device)
        if images.device.type == "cpu":
            paint_boxes(
                corrupted,
                mask,
                outline,
                level=_level(images, params, generator),
                noise_std=math.sqrt(params.noise_variance),
                blurred=params.blur > 0.0,
                generator=generator,
            )
            return corrupted, mask
        shape = _fill(outline, side, params)
    else:
        draw = {"scratch": _scratch, "drops": _drops}[params.kind]
        shape = draw(batch, side, params, generator, images.device)
    _paint(corrupted, mask, shape, params, generator)
    return corrupted, mask


def _level(images: Tensor, params: Corruption, generator: torch.Generator) -> Tensor:
    """The filling's level in [0, 1]: batch x tints, one tint for all channels or one a channel."""
    batch, channels = images.shape[:2]
    tints = channels if params.colour else 1
    return _uniform((batch, tints), params.grey, generator, images.device) / 255.0


def _paint(images: Tensor, mask: Tensor, shape: Shape, params: Corruption, generator: torch.Generator) -> None:
    """Blend one filling level an image, plus noise, into the window or the whole image, in place."""
    batch = len(images)
    window = shape.opacity.shape[-1]
    device = images.device
    level = _level(images, params, generator)[:, None, None]
    tints = level.shape[-1]
    noise = torch.randn(batch, window, window, tints, generator=generator, device=device)
    filling = (level + math.sqrt(params.noise_variance) * noise).clamp(0.0, 1.0)

    opacity = shape.opacity[..., None]
    pixels = images.permute(0, 2, 3, 1)
    if window == images.shape[-1]:
        pixels.add_(opacity * (filling - pixels))
        mask[:, 0] = shape.opacity >= 0.5
        return
    steps = torch.arange(window, device=device)
    item = torch.arange(batch, device=device)[:, None, None]
    rows = (shape.corner[:, 0, None] + steps)[:, :, None]
    columns = (shape.corner[:, 1, None] + steps)[:, None, :]
    under = pixels[item, rows, columns]
    pixels[item, rows, columns] = under + opacity * (filling - under)
    mask[:, 0][item, rows, columns] = shape.opacity >= 0.5


def _stain(batch: int, side: int, params: Corruption, generator: torch.Generator, device: torch.device) -> Outline:
    """A closed curve through points around a rotated ellipse, each moved at random, joined by a cubic."""
    draws = torch.rand(batch, 3 + 2 * STAIN_POINTS, generator=generator, device=device)
    low, high = params.size
    axes = torch.add(low * side, draws[:, :2], alpha=(high - low) * side)
    # One point in each of 20 equal sectors, at `places` from its start to its end: ascending angles without sorting.
    places = draws[:, 3 : 3 + STAIN_POINTS]
    moves = 1.0 - params.irregularity + 2.0 * params.irregularity * draws[:, 3 + STAIN_POINTS :]

    # The cubic joins the points' moves rather than their radii: 20 radii would miss the tips of a narrow ellipse.
    table = _ellipse_radius(axes, math.pi * draws[:, 2:3]) * _periodic_cubic(places, moves)
    longest = axes.amax(dim=1, keepdim=True)
    table = torch.minimum(table.clamp_(min=0.0), longest * (1.0 + params.irregularity))
    sigma = params.blur * longest

    reach = table + BLUR_REACH * sigma if params.blur else table
    extent = (reach[:, None] * _table_angles(device).upright).amax(dim=2)
    return Outline(table, sigma, extent, _place(extent, side, generator))


def _fill(outline: Outline, side: int, params: Corruption) -> Shape:
    """The opacity of a stain on the whole image."""
    table, sigma, _, centre = outline
    dy, dx, corner = _offsets(centre, side, side)
    distance = torch.hypot(dy, dx)
    position = torch.remainder(torch.atan2(dy, dx), 2 * math.pi) * (STAIN_ANGLES / (2 * math.pi))
    before = position.long().clamp(max=STAIN_ANGLES - 1)
    closed = torch.cat([table, table[:, :1]], dim=1)
    inner = closed.gather(1, before.flatten(1)).view_as(position)
    outer = closed.gather(1, (before + 1).flatten(1)).view_as(position)
    depth = torch.lerp(inner, outer, position - before) - distance  # pixels inside the curve
    if params.blur == 0.0:
        return Shape((depth >= 0.0).float(), corner)
    sigma = sigma[:, :, None]
    soft = 0.5 * (1.0 + torch.erf(depth / (sigma * math.sqrt(2.0))))
    return Shape(torch.where(depth >= -BLUR_REACH * sigma, soft, 0.0), corner)


def _scratch(batch: int, side: int, params: Corruption, generator: torch.Generator, device: torch.device) -> Shape:
    """A stroke along a line, a sine or a square root, turned at random."""
    half_length, half_width, amplitude, wavelength = (
        _uniform((batch, 1, 1), (low * side, high * side), generator, device)
        for low, high in (SCRATCH_HALF_LENGTH, SCRATCH_HALF_WIDTH, SCRATCH_AMPLITUDE, SCRATCH_WAVELENGTH)
    )
    half_width = half_width.clamp(min=0.75)  # below it a stroke may fall between the pixels
    turn = _uniform((batch, 1, 1), (0.0, 2 * math.pi), generator, device)
    phase = _uniform((batch, 1, 1), (0.0, 2 * math.pi), generator, device)
    kind = torch.randint(3, (batch, 1, 1), generator=generator, device=device)
    extent = torch.hypot(half_length, amplitude + half_width).flatten()[:, None].expand(-1, 2)
    centre = _place(extent, side, generator)
    longest = math.hypot(SCRATCH_HALF_LENGTH[1], SCRATCH_AMPLITUDE[1] + SCRATCH_HALF_WIDTH[1]) * side
    dy, dx, corner = _offsets(centre, _window(longest, side, device), side)
    along = dx * turn.cos() + dy * turn.sin()
    across = dy * turn.cos() - dx * turn.sin()
    wave = 2 * math.pi / wavelength
    sine = amplitude * torch.sin(wave * along + phase)
    sine_slope = amplitude * wave * torch.cos(wave * along + phase)
    share = ((along + half_length) / (2 * half_length)).clamp(1e-3, 1.0)
    root = amplitude * (2 * share.sqrt() - 1)
    root_slope = amplitude / (2 * half_length * share.sqrt())
    zero = torch.zeros_like(along)
    curve = torch.where(kind == 0, zero, torch.where(kind == 1, sine, root))
    slope = torch.where(kind == 0, zero, torch.where(kind == 1, sine_slope, root_slope))
    distance = (across - curve).abs() / torch.sqrt(1.0 + slope.square())
    # Where the stroke is steep, `distance` is small far beyond its end too: the root starts upright.
    near = (along.abs() <= half_length) & (across.abs() <= amplitude + half_width)
    return Shape(((distance <= half_width) & near).float(), corner)


def _drops(batch: int, side: int, params: Corruption, generator: torch.Generator, device: torch.device) -> Shape:
    """A cluster of small discs."""
    spread = _uniform((batch, 1), (DROPS_SPREAD[0] * side, DROPS_SPREAD[1] * side), generator, device)
    radius = _uniform((batch, DROPS), (DROP_RADIUS[0] * side, DROP_RADIUS[1] * side), generator, device)
    distance = spread * _uniform((batch, DROPS), (0.0, 1.0), generator, device).sqrt()
    angle = _uniform((batch, DROPS), (0.0, 2 * math.pi), generator, device)
    y, x = (distance * angle.sin()).round(), (distance * angle.cos()).round()
    extent = torch.stack([(y.abs() + radius).amax(dim=1), (x.abs() + radius).amax(dim=1)], dim=1)
    centre = _place(extent, side, generator)
    window = _window((DROPS_SPREAD[1] + DROP_RADIUS[1]) * side, side, device)
    dy, dx, corner = _offsets(centre, window, side)
    inside = torch.hypot(dy[:, None] - y[..., None, None], dx[:, None] - x[..., None, None]) <= radius[..., None, None]
    return Shape(inside.any(dim=1).float(), corner)


def _uniform(
    shape: tuple[int, ...] | torch.Size, bounds: tuple[float, float], generator: torch.Generator, device: torch.device
) -> Tensor:
    low, high = bounds
    return low + (high - low) * torch.rand(shape, generator=generator, device=device)


class _TableAngles(NamedTuple):
    """What depends on the angles of the radius table only.

    cos2, sin2: of twice the angle. upright: how far up or down, and how far to a side, the angle points; 2 x angles.
    sector: in which of the points' sectors it lies; before: the sector before that; share: how far the angle is on the
    way from its sector's start (0) to its end (1).
    """

    cos2: Tensor
    sin2: Tensor
    upright: Tensor
    sector: Tensor
    before: Tensor
    share: Tensor


@lru_cache(maxsize=8)
def _table_angles(device: torch.device) -> _TableAngles:
    angles = torch.arange(STAIN_ANGLES, dtype=torch.float64) * (2 * math.pi / STAIN_ANGLES)
    position = torch.arange(STAIN_ANGLES, dtype=torch.float64) * (STAIN_POINTS / STAIN_ANGLES)
    sector = position.long()
    upright = torch.stack([angles.sin(), angles.cos()]).abs()
    made = _TableAngles(
        cos2=(2 * angles).cos().float(),
        sin2=(2 * angles).sin().float(),
        upright=upright.float(),
        sector=sector,
        before=(sector - 1) % STAIN_POINTS,
        share=(position - sector).float(),
    )
    return _TableAngles._make(values.to(device) for values in made)


def _ellipse_radius(axes: Tensor, turn: Tensor) -> Tensor:
    """Distance from the centre, at each angle of the table, to ellipses with semi-axes `axes` (batch x 2), rotated by
    `turn` (batch x 1): batch x angles.

    1 / radius^2 = cos^2(angle - turn) / a^2 + sin^2(angle - turn) / b^2, written with the double angle.
    """
    angles = _table_angles(axes.device)
    a, b = axes.square().reciprocal().split(1, dim=1)
    half = 0.5 * (a - b)
    inverse = torch.addcmul(0.5 * (a + b), half * (2 * turn).cos(), angles.cos2)
    return inverse.addcmul_(half * (2 * turn).sin(), angles.sin2).rsqrt_()


def _periodic_cubic(places: Tensor, values: Tensor) -> Tensor:
    """Cubic Hermite interpolation (Catmull-Rom tangents) at each angle of the table: batch x angles.

    `values` (batch x points) are given one in each sector of the circle, at `places` (batch x points, in [0, 1)) of it.
    All lengths are in sectors.
    """
    angles = _table_angles(places.device)
    batch, points = values.shape
    width = 1.0 + places.roll(-1, 1) - places  # from each point to the next
    following = values.roll(-1, 1)
    tangent = (following - values.roll(1, 1)) / (width + width.roll(1, 1))
    slope, next_tangent = (following - values) / width, tangent.roll(-1, 1)
    second = (3.0 * slope - 2.0 * tangent - next_tangent) / width
    third = (tangent + next_tangent - 2.0 * slope) / width.square()
    pieces = torch.stack([places, values, tangent, second, third], dim=2).view(batch * points, 5)
    # An angle before its own sector's point belongs to the piece that begins in the sector before.
    early = places.index_select(1, angles.sector) > angles.share
    piece = torch.where(early, angles.before, angles.sector)
    piece = piece + torch.arange(0, batch * points, points, device=places.device)[:, None]
    start, *coefficients = pieces.index_select(0, piece.view(-1)).view(batch, -1, 5).unbind(2)
    way = angles.share + early - start
    value = torch.addcmul(coefficients[2], coefficients[3], way)
    return torch.addcmul(coefficients[0], torch.addcmul(coefficients[1], value, way), way)


def _window(reach: float, side: int, device: torch.device) -> int:
    """Side of a window that holds everything within `reach` of its centre; on a GPU, of the whole image."""
    return min(side, 2 * math.ceil(reach) + 1) if device.type == "cpu" else side


def _place(extent: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """A centre pixel (batch x 2, integers) so that nothing within `extent` (batch x 2) lies outside the image.

    A centre on the pixel grid means that even the smallest shape covers a pixel. The image reaches half a pixel
    beyond the centres of its outermost pixels.
    """
    margin = (extent - 0.5).ceil().clamp(min=0.0)
    room = (side - 1 - 2 * margin).clamp(min=0.0)
    return (margin + (torch.rand(extent.shape, generator=generator, device=extent.device) * (room + 1)).floor()).clamp(
        max=side - 1
    )


def _offsets(centre: Tensor, window: int, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """dy, dx (batch x window x window) from the centre, and the corner of a window that lies inside the image."""
    corner = (centre - window // 2).clamp(0, side - window)
    steps = torch.arange(window, device=centre.device)
    offsets = corner[:, :, None] + steps - centre[:, :, None]  # batch x 2 x window
    shape = (centre.shape[0], window, window)
    return offsets[:, 0, :, None].expand(shape), offsets[:, 1, None, :].expand(shape), corner.long()
