"""The stain of the paper (arXiv 2008.12977, section III-B): an irregular ellipse, drawn as a closed curve.

20 points lie around a rotated ellipse, one in each of 20 equal sectors, each moved at random, and a cubic joins their
moves over the angle. Here that, and the stain on the whole image, are tensor arithmetic, so that nothing waits for the
host of a GPU; on a CPU they are loops over the stain's own pixels (aesc/stain_loops.py). Both give the same stain.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from aesc.params import BLUR_REACH, Corruption
from aesc.placement import Shape, offsets, place

POINTS = 20
ANGLES = 256  # resolution of the radius table; linear in between
OF_OUTLINE = 3 + 2 * POINTS  # random numbers
DRAWS = OF_OUTLINE + 2  # and where it lies


class Outline(NamedTuple):
    """Closed curves around pixels, in polar form.

    radius: batch x angles, at evenly spaced angles from 0, linear in between; pixels. sigma: batch x 1, of the edge's
    blur; pixels. extent: batch x 2 (y, x), how far the curve with its edge reaches. centre: batch x 2, integers.
    """

    radius: Tensor
    sigma: Tensor
    extent: Tensor
    centre: Tensor


class Draws(NamedTuple):
    """What is random of an outline, in [0, 1): batch x 2 semi-axes, batch x 1 turn, of each of its points (batch x
    points) where in its sector it lies and how far it is moved, and batch x 2 where on the image it lies (y, x)."""

    axes: Tensor
    turn: Tensor
    places: Tensor
    moves: Tensor
    centre: Tensor


def draw(batch: int, generator: torch.Generator, device: torch.device) -> Draws:
    """Draw `batch` outlines."""
    drawn = torch.rand(batch * DRAWS, generator=generator, device=device)
    outline, centre = drawn[: batch * OF_OUTLINE].view(batch, -1), drawn[batch * OF_OUTLINE :].view(batch, 2)
    axes, turn, places, moves = outline.split([2, 1, POINTS, POINTS], dim=1)
    return Draws(axes, turn, places, moves, centre)


def trace(draws: Draws, side: int, params: Corruption) -> Outline:
    """The closed curves, and where they lie so that all of them is on the image."""
    low, high = params.size
    axes = torch.add(low * side, draws.axes, alpha=(high - low) * side)
    moves = 1.0 - params.irregularity + 2.0 * params.irregularity * draws.moves
    # The cubic joins the points' moves rather than their radii: 20 radii would miss the tips of a narrow ellipse.
    radius = _ellipse_radius(axes, math.pi * draws.turn) * _periodic_cubic(draws.places, moves)
    longest = axes.amax(dim=1, keepdim=True)
    radius = torch.minimum(radius.clamp_(min=0.0), longest * (1.0 + params.irregularity))
    sigma = params.blur * longest
    reach = radius + BLUR_REACH * sigma if params.blur else radius
    extent = (reach[:, None] * table_angles(axes.device).upright).amax(dim=2)
    return Outline(radius, sigma, extent, place(extent, side, draws.centre))


def fill(outline: Outline, side: int, params: Corruption) -> Shape:
    """The opacity of a stain on the whole image."""
    table, sigma, _, centre = outline
    dy, dx, corner = offsets(centre, side, side)
    distance = torch.hypot(dy, dx)
    position = torch.remainder(torch.atan2(dy, dx), 2 * math.pi) * (ANGLES / (2 * math.pi))
    before = position.long().clamp(max=ANGLES - 1)
    closed = torch.cat([table, table[:, :1]], dim=1)
    inner = closed.gather(1, before.flatten(1)).view_as(position)
    outer = closed.gather(1, (before + 1).flatten(1)).view_as(position)
    depth = torch.lerp(inner, outer, position - before) - distance  # pixels inside the curve
    if params.blur == 0.0:
        return Shape((depth >= 0.0).float(), corner)
    sigma = sigma[:, :, None]
    soft = 0.5 * (1.0 + torch.erf(depth / (sigma * math.sqrt(2.0))))
    return Shape(torch.where(depth >= -BLUR_REACH * sigma, soft, 0.0), corner)


class TableAngles(NamedTuple):
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
def table_angles(device: torch.device) -> TableAngles:
    """Made once for each device."""
    angles = torch.arange(ANGLES, dtype=torch.float64) * (2 * math.pi / ANGLES)
    position = torch.arange(ANGLES, dtype=torch.float64) * (POINTS / ANGLES)
    sector = position.long()
    upright = torch.stack([angles.sin(), angles.cos()]).abs()
    made = TableAngles(
        cos2=(2 * angles).cos().float(),
        sin2=(2 * angles).sin().float(),
        upright=upright.float(),
        sector=sector,
        before=(sector - 1) % POINTS,
        share=(position - sector).float(),
    )
    return TableAngles._make(values.to(device) for values in made)


def _ellipse_radius(axes: Tensor, turn: Tensor) -> Tensor:
    """Distance from the centre, at each angle of the table, to ellipses with semi-axes `axes` (batch x 2), rotated by
    `turn` (batch x 1): batch x angles.

    1 / radius^2 = cos^2(angle - turn) / a^2 + sin^2(angle - turn) / b^2, written with the double angle.
    """
    angles = table_angles(axes.device)
    a, b = axes.square().reciprocal().split(1, dim=1)
    half = 0.5 * (a - b)
    inverse = torch.addcmul(0.5 * (a + b), half * (2 * turn).cos(), angles.cos2)
    return inverse.addcmul_(half * (2 * turn).sin(), angles.sin2).rsqrt_()


def _periodic_cubic(places: Tensor, values: Tensor) -> Tensor:
    """Cubic Hermite interpolation (Catmull-Rom tangents) at each angle of the table: batch x angles.

    `values` (batch x points) are given one in each sector of the circle, at `places` (batch x points, in [0, 1)) of it.
    All lengths are in sectors.
    """
    angles = table_angles(places.device)
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
