"""Where images show nothing, and how to keep corruptions from lying mostly there.

Drawn evenly, most blobs would lie on the ground around a small part. That is soon learnt, and defects are on the part.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_CELLS = 32  # a side
_REACH = 2  # cells around a cell that are near it
_PLAIN = 0.5  # of the image's mean change: where there is less, there is nothing
_WEIGHT = 1000  # of a cell in the mean: whole numbers, because a GPU sums floats up in any order


def plain_cells(images: Tensor) -> Tensor:
    """Which of 32 x 32 cells change from place to place less than half as much as the image does in the mean.

    Args:
        images: batch x channels x side x side in [0, 1], side a power of two from 64 on.

    Returns:
        batch x cells, row by row, bool.
    """
    batch, _, side, _ = images.shape
    blocks = images.permute(0, 2, 3, 1).reshape(batch, 2 * _CELLS, side // (2 * _CELLS), 2 * _CELLS, -1)
    small = blocks.sum(dim=2).sum(dim=-1)[:, None]  # pooling takes a CPU four times as long, and only ratios count
    down = F.pad(small.diff(dim=2).abs(), (0, 0, 0, 1))
    across = F.pad(small.diff(dim=3).abs(), (0, 1, 0, 0))
    cells = F.pad(F.avg_pool2d(down + across, 2), (_REACH, _REACH, _REACH, _REACH), mode="replicate")
    change = F.avg_pool2d(cells, 2 * _REACH + 1, stride=1).flatten(1)
    return change < _PLAIN * change.mean(dim=1, keepdim=True)


def cell_weights(images: Tensor, *, most_on_plain: float) -> Tensor:
    """How likely each cell is to be drawn, so that plain ones are with a probability of at most `most_on_plain`.

    All cells of an image weigh alike if no more of them than that are plain; otherwise all plain ones do, and all
    others.

    Returns:
        batch x cells, int64.
    """
    plain = plain_cells(images)
    share = plain.float().mean(dim=1, keepdim=True)
    weights = torch.where(plain, most_on_plain / share, (1.0 - most_on_plain) / (1.0 - share))
    return (_WEIGHT * torch.where(share > most_on_plain, weights, 1.0)).round().long()


def off_plain_ground(places: Tensor, weights: Tensor, side: int) -> Tensor:
    """Places that are drawn evenly, moved from cell to cell so that cells are drawn by their weights.

    Where all weigh alike nothing is moved, and no random number more is needed than for drawing evenly.

    Args:
        places: batch x 2 (y, x), int64, in [0, side).
        weights: of `cell_weights`.
        side: of the images, pixels; a power of two from 64 on.

    Returns:
        batch x 2, the same kind.
    """
    width = side // _CELLS
    cell, inside = places // width, places % width
    # The places in the order of the cells; as a share of all of them it is uniform in [0, 1).
    number = (cell[:, :1] * _CELLS + cell[:, 1:]) * width**2 + inside[:, :1] * width + inside[:, 1:]
    cumulative = weights.cumsum(dim=1)
    found = torch.searchsorted(cumulative, number * cumulative[:, -1:] // side**2, right=True)
    return torch.cat([found // _CELLS, found % _CELLS], dim=1) * width + inside
