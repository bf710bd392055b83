"""Painting stains on a CPU: each image's stain in its own box, and nothing of the image outside it is touched.

A stain's centre is a pixel, so the angle and the distance of every pixel of a box are those of integer offsets: they
are looked up in one table for all stains. What is left for a pixel of the box is one look-up of the outline's radius
and one comparison, and for a pixel inside the stain one number of noise. Time and memory follow the stains' areas, not
the images'.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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
    side = images.shape[-1]
    boxes = _boxes(outline, side)
    table = _polar(_rounded_up(min(side, math.ceil(outline.extent.max()))), outline.radius.shape[1])
    # One more angle closes the circle.
    radius = np.concatenate([outline.radius.numpy(), outline.radius[:, :1].numpy()], axis=1)
    rise = np.diff(radius, axis=1)
    depths = [_depth(radius[box.item], rise[box.item], box, table) for box in boxes]
    inside: list[NDArray[np.bool_]]
    opacities: list[Any] = [None] * len(boxes)
    if blurred:
        sigma = outline.sigma[:, 0].tolist()
        inside = [depth >= -BLUR_REACH * width for depth, width in zip(depths, sigma, strict=True)]
        opacities = _soft(depths, inside, sigma)
    else:
        inside = [depth >= 0.0 for depth in depths]
    sizes = [int(np.count_nonzero(pixels)) for pixels in inside]
    tints = level.shape[1]
    filling = torch.randn(tints, sum(sizes), generator=generator).numpy()
    filling *= noise_std
    filling += np.repeat(level.numpy().T, sizes, axis=1)
    np.clip(filling, 0.0, 1.0, out=filling)
    channels = images.permute(0, 2, 3, 1).numpy()
    marks = mask[:, 0].numpy()
    ends = np.cumsum(sizes).tolist()
    for box, pixels, opacity, size, end in zip(boxes, inside, opacities, sizes, ends, strict=True):
        region = channels[box.item, box.rows, box.columns]
        for channel in range(region.shape[-1]):
            tint, plane = filling[channel % tints, end - size : end], region[..., channel]
            if opacity is None:
                plane[pixels] = tint
            else:
                under = plane[pixels]
                plane[pixels] = under + opacity * (tint - under)
        if opacity is None:
            marks[box.item, box.rows, box.columns] = pixels
        else:
            marks[box.item, box.rows, box.columns][pixels] = opacity >= 0.5


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


def _depth(radius: NDArray[np.float32], rise: NDArray[np.float32], box: _Box, table: _Polar) -> NDArray[np.float32]:
    """How far each pixel of the box lies inside the curve, pixels."""
    at = (
        slice(box.table_rows.start + table.reach, box.table_rows.stop + table.reach),
        slice(box.table_columns.start + table.reach, box.table_columns.stop + table.reach),
    )
    before = table.before[at]
    depth: NDArray[np.float32] = rise[before]
    depth *= table.share[at]
    depth += radius[before]
    depth -= table.distance[at]
    return depth


def _soft(
    depths: list[NDArray[np.float32]], inside: list[NDArray[np.bool_]], sigma: list[float]
) -> list[NDArray[np.float32]]:
    """Opacity of the pixels inside: the Gaussian blur of a straight edge at that depth."""
    scaled = [
        depth[pixels] / np.float32(width * math.sqrt(2.0))
        for depth, pixels, width in zip(depths, inside, sigma, strict=True)
    ]
    opacity = torch.from_numpy(np.concatenate(scaled)).erf_().add_(1.0).mul_(0.5).numpy()
    return np.split(opacity, np.cumsum([part.size for part in scaled])[:-1])
