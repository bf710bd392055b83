"""Stains on a CPU: compiled loops over each stain's own pixels; nothing of the image outside its box is touched.

A stain's centre is a pixel, so the angle and the distance of every pixel of a box are those of integer offsets: they
are looked up in one table for all stains. What is left for a pixel of the box is one look-up of the outline's radius
and one comparison, and for a pixel inside the stain one number of noise. Time and memory follow the stains' areas, not
the images'.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aesc.compiled import compiled
from aesc.noise_bank import stretches
from aesc.params import BLUR_REACH, Corruption
from aesc.stain import ANGLES, DRAWS, OF_OUTLINE, table_angles

_TABLE_STEP = 16  # pixels: few different tables
_SOLID = 6.0  # sigmas inside a blurred edge from which nothing of the image shows
_EDGE_STEPS = 8192
_MOST_NOISE = 2**21  # numbers for one batch: 8 MB

_Floats = NDArray[np.float32]


def paint(images: Tensor, mask: Tensor, *, params: Corruption, generator: torch.Generator) -> None:
    """Paint one stain on every image, in place: what `aesc.stain` traces and fills, up to rounding.

    Args:
        images: batch x channels x side x side in [0, 1], on the CPU, in any memory order.
        mask: batch x 1 x side x side, bool, all false; is set where the opacity is at least 0.5.
        params: sizes, irregularity, edge and filling.
        generator: of the outlines, as `aesc.stain.draw` draws them, then of the fillings and their noise.
    """
    batch, channels, side, _ = images.shape
    tints = channels if params.colour else 1
    reach = min(side, math.ceil(side * params.reach))
    # One call: between two of a tensor's operations lies more time than a stain takes.
    drawn = torch.rand(batch * (DRAWS + tints), generator=generator).numpy()
    (noise,) = stretches(1, min(batch * tints * (2 * reach + 1) ** 2, _MOST_NOISE), generator)
    ordered = images.contiguous(memory_format=torch.channels_last)
    _paint(
        ordered.permute(0, 2, 3, 1).numpy(),
        mask.numpy()[:, 0],
        drawn,
        noise.numpy(),
        _in_pixels(params, side),
        _angles(),
        _polar(-(-reach // _TABLE_STEP) * _TABLE_STEP),
        _edge(),
        OF_OUTLINE,
    )
    if ordered is not images:
        images.copy_(ordered)


class _Settings(NamedTuple):
    """Of `Corruption`, float32: ranges as their start and their width, axes in pixels, levels of 255."""

    axis: np.float32
    axis_spread: np.float32
    irregularity: np.float32
    blur: np.float32
    level: np.float32
    level_spread: np.float32
    noise: np.float32
    blur_reach: np.float32


@lru_cache(maxsize=8)
def _in_pixels(params: Corruption, side: int) -> _Settings:
    (small, large), (dark, bright) = params.size, params.grey
    return _Settings(
        axis=np.float32(small * side),
        axis_spread=np.float32((large - small) * side),
        irregularity=np.float32(params.irregularity),
        blur=np.float32(params.blur),
        level=np.float32(dark),
        level_spread=np.float32(bright - dark),
        noise=np.float32(math.sqrt(params.noise_variance)),
        blur_reach=np.float32(BLUR_REACH),
    )


class _Angles(NamedTuple):
    """`aesc.stain.TableAngles`."""

    cos2: _Floats
    sin2: _Floats
    upright: _Floats
    sector: NDArray[np.int64]
    before: NDArray[np.int64]
    share: _Floats


@lru_cache(maxsize=1)
def _angles() -> _Angles:
    return _Angles(**{name: values.numpy() for name, values in table_angles(torch.device("cpu"))._asdict().items()})


class _Polar(NamedTuple):
    """Of every offset from a pixel up to `reach`: number of the angle before it, share of the way on, distance."""

    before: NDArray[np.int16]
    share: _Floats
    distance: _Floats


@lru_cache(maxsize=8)
def _polar(reach: int) -> _Polar:
    steps = np.arange(-reach, reach + 1, dtype=np.float64)
    position = np.mod(np.arctan2(steps[:, None], steps), 2 * math.pi) * (ANGLES / (2 * math.pi))
    before = np.minimum(position.astype(np.int16), np.int16(ANGLES - 1))
    share = (position - before).astype(np.float32)
    return _Polar(before, share, np.hypot(steps[:, None], steps).astype(np.float32))


@lru_cache(maxsize=1)
def _edge() -> _Floats:
    """The opacity of a blurred edge at evenly spaced depths in sigmas, from -BLUR_REACH to _SOLID; linear in between,
    as exact as float32."""
    depths = torch.linspace(-BLUR_REACH, _SOLID, _EDGE_STEPS + 1, dtype=torch.float64)
    opacity: _Floats = (0.5 * (1.0 + torch.erf(depths / math.sqrt(2.0)))).float().numpy()
    return opacity


@compiled
def _paint(
    pixels: _Floats,
    marks: NDArray[np.bool_],
    drawn: _Floats,
    noise: _Floats,
    settings: _Settings,
    angles: _Angles,
    polar: _Polar,
    edge: _Floats,
    of_outline: int,
) -> None:
    """`paint` for pixels in the order batch x side x side x channels.

    `noise` is used up pixel by pixel, tint by tint, of those that are inside, and then again from its start.
    """
    zero, half, one = np.float32(0.0), np.float32(0.5), np.float32(1.0)
    batch, side, _, channels = pixels.shape
    outlines = drawn[: batch * of_outline].reshape(batch, of_outline)
    centres = drawn[batch * of_outline : batch * (of_outline + 2)].reshape(batch, 2)
    of_levels = drawn[batch * (of_outline + 2) :].reshape(batch, -1)
    levels = (settings.level + settings.level_spread * of_levels) / np.float32(255.0)
    tints = levels.shape[1]
    reach = polar.before.shape[0] // 2
    blurred = settings.blur > zero
    radius = np.empty(angles.share.size, np.float32)
    used = 0
    for item in range(batch):
        a = settings.axis + settings.axis_spread * outlines[item, 0]
        b = settings.axis + settings.axis_spread * outlines[item, 1]
        longest = max(a, b)
        sigma = settings.blur * longest
        soft = settings.blur_reach * sigma
        steps = np.float32(edge.size - 1) / (settings.blur_reach + np.float32(_SOLID)) / sigma if blurred else zero
        _trace_moves(radius, outlines[item, 3:], settings.irregularity, angles)
        of_a, of_b, turn = one / (a * a), one / (b * b), np.float32(2.0 * math.pi) * outlines[item, 2]
        along, across = half * (of_a - of_b) * np.cos(turn), half * (of_a - of_b) * np.sin(turn)
        down, wide = zero, zero
        for angle in range(radius.size):
            ellipse = one / np.sqrt(half * (of_a + of_b) + along * angles.cos2[angle] + across * angles.sin2[angle])
            radius[angle] = min(max(ellipse * radius[angle], zero), longest * (one + settings.irregularity))
            down = max(down, (radius[angle] + soft) * angles.upright[0, angle])
            wide = max(wide, (radius[angle] + soft) * angles.upright[1, angle])

        centre_y, centre_x = _place(down, side, centres[item, 0]), _place(wide, side, centres[item, 1])
        for y in range(max(centre_y - int(down), 0), min(centre_y + int(down), side - 1) + 1):
            row = y - centre_y + reach
            for x in range(max(centre_x - int(wide), 0), min(centre_x + int(wide), side - 1) + 1):
                column = x - centre_x + reach
                angle = polar.before[row, column]
                start = radius[angle]
                rise = radius[angle + 1 if angle + 1 < radius.size else 0] - start
                depth = rise * polar.share[row, column] + start - polar.distance[row, column]
                if depth >= zero:
                    marks[item, y, x] = True
                if not depth >= -soft:  # nor where it is not a number
                    continue
                if used + tints > noise.size:
                    used = 0
                opacity = _looked_up(edge, (depth + soft) * steps) if blurred else one
                for channel in range(channels):
                    tint = channel if tints > 1 else 0
                    filling = min(max(levels[item, tint] + settings.noise * noise[used + tint], zero), one)
                    under = pixels[item, y, x, channel]
                    pixels[item, y, x, channel] = under + opacity * (filling - under) if blurred else filling
                used += tints


@compiled
def _trace_moves(found: _Floats, drawn: _Floats, irregularity: np.float32, angles: _Angles) -> None:
    """The cubic through the points' moves at each angle of the table, into `found`: `aesc.stain`'s, in a loop."""
    one, two, three = np.float32(1.0), np.float32(2.0), np.float32(3.0)
    points = drawn.size // 2
    place, moves = drawn[:points], drawn[points:]
    value, tangent = np.empty(points, np.float32), np.empty(points, np.float32)
    second, third = np.empty(points, np.float32), np.empty(points, np.float32)
    for point in range(points):
        value[point] = one - irregularity + two * irregularity * moves[point]
    for point in range(points):
        on, back = (point + 1) % points, (point - 1) % points
        width, width_back = one + place[on] - place[point], one + place[point] - place[back]
        tangent[point] = (value[on] - value[back]) / (width + width_back)
    for point in range(points):
        on = (point + 1) % points
        width = one + place[on] - place[point]
        slope = (value[on] - value[point]) / width
        second[point] = (three * slope - two * tangent[point] - tangent[on]) / width
        third[point] = (tangent[point] + tangent[on] - two * slope) / (width * width)
    for angle in range(found.size):
        early = place[angles.sector[angle]] > angles.share[angle]  # before its own sector's point: of the piece before
        piece = angles.before[angle] if early else angles.sector[angle]
        way = angles.share[angle] - place[piece] + (one if early else np.float32(0.0))
        found[angle] = ((third[piece] * way + second[piece]) * way + tangent[piece]) * way + value[piece]


@compiled
def _place(extent: np.float32, side: int, drawn: np.float32) -> int:
    """`aesc.placement.place` of one coordinate."""
    margin = max(math.ceil(extent - np.float32(0.5)), 0)
    room = max(side - 1 - 2 * margin, 0)
    return min(margin + int(drawn * np.float32(room + 1)), side - 1)


@compiled
def _looked_up(table: _Floats, position: np.float32) -> np.float32:
    """Between two entries, linear; beyond the last, the last."""
    position = min(position, np.float32(table.size - 1))
    before = min(int(position), table.size - 2)
    found: np.float32 = table[before] + (position - np.float32(before)) * (table[before + 1] - table[before])
    return found
