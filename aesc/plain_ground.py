"""Where images show nothing, and how to keep corruptions from lying mostly there.

Drawn evenly, most blobs would lie on the ground around a small part. That is soon learnt, and defects are on the part.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

_CELLS = 32  # a side
_REACH = 2  # cells on each side of a cell that are near it
_PLAIN = 0.5  # of the image's mean change: where there is less, there is nothing
_WEIGHT = 2**20  # of a cell in the mean: of whole numbers a GPU finds the same cumulative sum each time


class Cells(NamedTuple):
    """Of 32 x 32 cells, row by row: how likely each is to be drawn, and that of all up to it; batch x cells, int64."""

    weight: Tensor
    end: Tensor


def plain_cells(images: Tensor) -> Tensor:
    """Which of 32 x 32 cells change, from place to place, less than half as much as the image does in the mean.

    A cell's change is that of 5 x 5 cells around it, in the sum of the channels: differences in hue alone do not count.

    Args:
        images: batch x channels x side x side in [0, 1], side a power of two from 64 on.

    Returns:
        batch x cells, row by row, bool.
    """
    batch, _, side, _ = images.shape
    blocks = images.permute(0, 2, 3, 1).reshape(batch, 2 * _CELLS, side // (2 * _CELLS), 2 * _CELLS, -1)
    # In channels_last memory pooling takes four times as long; only ratios count.
    small = blocks.sum(dim=2).sum(dim=-1)[:, None]
    cells = F.avg_pool2d(_change(small, dim=2) + _change(small, dim=3), 2)
    near = F.avg_pool2d(cells, 2 * _REACH + 1, stride=1, padding=_REACH, count_include_pad=False).flatten(1)
    return near < _PLAIN * near.mean(dim=1, keepdim=True)


def _change(maps: Tensor, *, dim: int) -> Tensor:
    """Of each pixel, its differences from the one before and the one after along `dim`; at the ends that there is one
    of, twice."""
    differences = maps.diff(dim=dim).abs()
    first, last = differences.narrow(dim, 0, 1), differences.narrow(dim, -1, 1)
    return torch.cat([first, differences], dim=dim) + torch.cat([differences, last], dim=dim)


def drawn_cells(images: Tensor, *, most_on_plain: float) -> Cells:
    """Weights by which plain cells are drawn with a probability of at most `most_on_plain`.

    All cells of an image weigh alike if no larger share of them is plain; otherwise all plain ones do, and all others.
    """
    plain = plain_cells(images)
    share = plain.float().mean(dim=1, keepdim=True)
    weights = torch.where(plain, most_on_plain / share, (1.0 - most_on_plain) / (1.0 - share))
    weight = (_WEIGHT * torch.where(share > most_on_plain, weights, 1.0)).round().long()
    return Cells(weight, weight.cumsum(dim=1))


def off_plain_ground(places: Tensor, cells: Cells, side: int) -> Tensor:
    """Places that are drawn evenly, moved so that cells are drawn by their weights, and evenly within each.

    Where all weigh alike nothing is moved, and no random number more is needed than for drawing evenly.

    Args:
        places: batch x count x 2 (y, x), int64, in [0, side).
        cells: of `drawn_cells`.
        side: of the images, pixels; a power of two from 64 on.

    Returns:
        batch x count x 2, the same kind.
    """
    width = side // _CELLS
    (row, column), (y, x) = (places // width).unbind(-1), (places % width).unbind(-1)
    # Places in the order of their cells: as a share of all of them, uniform in [0, 1).
    number = (row * _CELLS + column) * width**2 + y * width + x
    chosen = (number * cells.end[:, -1:] // side**2).contiguous()
    found = torch.searchsorted(cells.end, chosen, right=True)
    weight = cells.weight.gather(1, found)
    within = (chosen - cells.end.gather(1, found) + weight) * width**2 // weight
    moved_y, moved_x = found // _CELLS * width + within // width, found % _CELLS * width + within % width
    return torch.stack([moved_y, moved_x], dim=-1)
