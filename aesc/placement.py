"""Where a synthetic defect lies on its image, and how much of each pixel it covers."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Shape(NamedTuple):
    """Opacity in a window: batch x window x window in [0, 1], and the window's upper left corner, batch x 2 (y, x)."""

    opacity: Tensor
    corner: Tensor


def place(extent: Tensor, side: int, drawn: Tensor) -> Tensor:
    """A centre pixel (batch x 2, integers) so that nothing within `extent` (batch x 2) lies outside the image.

    A centre on the pixel grid means that even the smallest shape covers a pixel. The image reaches half a pixel
    beyond the centres of its outermost pixels. `drawn` (batch x 2) is where in the room that is left, in [0, 1).
    """
    margin = (extent - 0.5).ceil().clamp(min=0.0)
    room = (side - 1 - 2 * margin).clamp(min=0.0)
    return (margin + (drawn * (room + 1)).floor()).clamp(max=side - 1)


def offsets(centre: Tensor, window: int, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """dy, dx (batch x window x window) from the centre, and the corner of a window that lies inside the image."""
    corner = (centre - window // 2).clamp(0, side - window)
    steps = torch.arange(window, device=centre.device)
    found = corner[:, :, None] + steps - centre[:, :, None]  # batch x 2 x window
    shape = (centre.shape[0], window, window)
    return found[:, 0, :, None].expand(shape), found[:, 1, None, :].expand(shape), corner.long()
