"""Painting stains on a CPU: each image's stain in its own box, and nothing of the image outside it is touched.

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

from aesc.noise_bank import stretches
from aesc.params import BLUR_REACH


class Outline(NamedTuple):
    """Closed curves around pixels, in polar form.

    radius: batch x angles, at evenly spaced angles from 0, linear in between; pixels. sigma: batch x 1, of the edge's
    blur; pixels. extent: batch x 2 (y, x), how far the curve with its edge reaches. centre: batch x 2, integers.
    """

    radius: Tensor
    sigma: Tensor
    extent: Tensor
    centre: Tensor


class _Box(NamedTuple):
    """A stain's own part of its image: which image, rows and columns, and where they start from its centre."""

    item: int
    rows: slice
    columns: slice
    table_rows: slice
    table_columns: slice


def paint_boxes(
    images: Tensor,
    mask: Tensor,
    outline: Outline,
    *,
    level: Tensor,
    noise_std: float,
    blurred: bool,
    generator: torch.Generator,
) -> None:
    """Fill the outlines, in place.

    Args:
        images: batch x channels x side x side in [0, 1], on the CPU, in any memory order.
        mask: batch x 1 x side x side, bool, all false; is set where the opacity is at least 0.5.
        outline: one a image.
        level: batch x tints, the filling's level; one tint for all channels, or one a channel.
        noise_std: of the filling.
        blurred: whether the edge is soft (sigma above 0).
        generator: of the noise.
    """
    ordered = images.contiguous(memory_format=torch.channels_last)
    boxes = _boxes(outline, images.shape[-1])
    depths = _depths(outline, boxes, images.shape[-1])
    softness = (BLUR_REACH * outline.sigma[:, 0]).tolist()
    inside = [depth >= -reach for depth, reach in zip(depths, softness, strict=True)]
    sizes = [int(np.count_nonzero(pixels)) for pixels in inside]
    painted = _filling(level, sizes, channels=images.shape[1], noise_std=noise_std, generator=generator)

    # One item a pixel: all its channels are read and written at once.
    pixel = np.dtype((np.void, painted.itemsize * painted.shape[1]))
    items = ordered.permute(0, 2, 3, 1).numpy().view(pixel)[..., 0]
    places = [items[box.item, box.rows, box.columns] for box in boxes]
    if blurred:
        under = np.concatenate([place[pixels] for place, pixels in zip(places, inside, strict=True)])
        below = under.view(painted.dtype).reshape(painted.shape)
        painted = below + _opacity(depths, inside, outline.sigma)[:, None] * (painted - below)
    ends = np.cumsum(sizes).tolist()
    for place, pixels, size, end in zip(places, inside, sizes, ends, strict=True):
        place[pixels] = painted[end - size : end].view(pixel)[:, 0]
    marks = mask[:, 0].numpy()
    for box, depth in zip(boxes, depths, strict=True):
        np.greater_equal(depth, 0.0, out=marks[box.item, box.rows, box.columns])
    if ordered is not images:
        images.copy_(ordered)


def _filling(
    level: Tensor, sizes: list[int], *, channels: int, noise_std: float, generator: torch.Generator
) -> NDArray[np.float32]:
    """What `sizes[i]` pixels of stain i are filled with, one stain after the other: pixels x channels in [0, 1]."""
    tints, count = level.shape[1], sum(sizes)
    (noise,) = stretches(1, tints * count, generator)
    tinted = np.repeat(level.numpy(), sizes, axis=0)
    tinted += noise_std * noise.numpy().reshape(count, tints)
    np.clip(tinted, 0.0, 1.0, out=tinted)
    return np.ascontiguousarray(np.broadcast_to(tinted, (count, channels)))


def _boxes(outline: Outline, side: int) -> list[_Box]:
    """Everything within the extent of the centre, cut at the image's border."""
    centre = outline.centre.long()
    extent = outline.extent.floor().long()
    low = (centre - extent).clamp(min=0)
    high = (centre + extent).clamp(max=side - 1) + 1
    rows = torch.cat([centre, low, high], dim=1).tolist()
    return [
        _Box(item, slice(top, bottom), slice(left, right), slice(top - y, bottom - y), slice(left - x, right - x))
        for item, (y, x, top, left, bottom, right) in enumerate(rows)
    ]


class _Polar(NamedTuple):
    """Of every offset from a pixel up to `reach`: number of the angle before it, share of the way on, distance."""

    reach: int
    before: NDArray[np.intp]
    share: NDArray[np.float32]
    distance: NDArray[np.float32]


@lru_cache(maxsize=8)
def _polar(reach: int, angles: int) -> _Polar:
    steps = np.arange(-reach, reach + 1, dtype=np.float64)
    position = np.mod(np.arctan2(steps[:, None], steps), 2 * math.pi) * (angles / (2 * math.pi))
    before = np.minimum(position.astype(np.intp), angles - 1)
    share = (position - before).astype(np.float32)
    return _Polar(reach, before, share, np.hypot(steps[:, None], steps).astype(np.float32))


def _rounded_up(reach: int) -> int:
    """Few different tables: the next multiple of 16."""
    return -(-reach // 16) * 16


def _depths(outline: Outline, boxes: list[_Box], side: int) -> list[NDArray[np.float32]]:
    """How far each pixel of each box lies inside the curve, pixels."""
    radius = outline.radius.numpy()
    rise = np.diff(radius, axis=1, append=radius[:, :1])
    table = _polar(_rounded_up(min(side, math.ceil(outline.extent.max()))), radius.shape[1])
    found = []
    for box in boxes:
        at = (
            slice(box.table_rows.start + table.reach, box.table_rows.stop + table.reach),
            slice(box.table_columns.start + table.reach, box.table_columns.stop + table.reach),
        )
        before = table.before[at]
        depth = rise[box.item].take(before)  # twice as fast as an index
        depth *= table.share[at]
        depth += radius[box.item].take(before)
        depth -= table.distance[at]
        found.append(depth)
    return found


def _opacity(depths: list[NDArray[np.float32]], inside: list[NDArray[np.bool_]], sigma: Tensor) -> NDArray[np.float32]:
    """Of the pixels inside, one box after the other: the Gaussian blur of a straight edge at their depth."""
    widths = (math.sqrt(2.0) * sigma[:, 0]).numpy()
    scaled = [depth[pixels] / width for depth, pixels, width in zip(depths, inside, widths, strict=True)]
    opacity: NDArray[np.float32] = torch.from_numpy(np.concatenate(scaled)).erf_().add_(1.0).mul_(0.5).numpy()
    return opacity
