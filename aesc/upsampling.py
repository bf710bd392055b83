"""Nearest x2 upsampling followed by a 5x5 convolution, as one 3x3 convolution on the small grid (section III-A).

Each output pixel of phase (i, j) sees its 5x5 window fall on 3x3 pixels of the small grid, so the product equals one
3x3 convolution with four times the maps, its kernels sums of the 5x5 taps, and laying the four between each other: 9
multiplications instead of 25.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Self

import torch
from torch import Tensor, nn

from aesc.matrix_convolution import convolve


class UpsampleConv(nn.Module):
    """The kernels of nearest x2 upsampling and a 5x5 convolution, and its products."""

    def __init__(self, maps_in: int, maps_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(maps_out, maps_in, 5, 5))
        self._kept: Tensor | None
        self.register_buffer("_kept", None, persistent=False)

    def products(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """batch x maps_in x height x width to batch x maps_out x 2 height x 2 width; bias: maps_out, or None."""
        phases = phase_kernels(self.weight) if self._kept is None or torch.is_grad_enabled() else self._kept
        return upsample_conv(x, phases, bias)

    @torch.no_grad()
    def keep_phases(self) -> None:
        """Make the phases of the kernels once, for weights that stay as they are: until `train` or `eval` is called."""
        self._kept = phase_kernels(self.weight)

    def train(self, mode: bool = True) -> Self:
        """As of any module; kept phases are forgotten, because PyTorch does not count what all optimisers change."""
        self._kept = None
        return super().train(mode)


def upsample_conv(x: Tensor, phases: Tensor, bias: Tensor | None) -> Tensor:
    """Nearest x2 upsampling and a 5x5 convolution (padding 2).

    Args:
        x: batch x maps_in x height x width.
        phases: what `phase_kernels` makes of maps_out x maps_in x 5 x 5.
        bias: maps_out, or None.

    Returns:
        batch x maps_out x 2 height x 2 width.
    """
    return interleave_phases(convolve(x, phases, None if bias is None else bias.repeat(4), padding=1))


def interleave_phases(x: Tensor) -> Tensor:
    """batch x (2 x 2 phases, maps) x height x width to batch x maps x 2 height x 2 width, in channels_last memory.

    It is PyTorch's pixel shuffle with the phases before the maps, so that all maps of a pixel are moved at once.
    """
    batch, maps, height, width = x.shape
    phases = x.permute(0, 2, 3, 1).reshape(batch, height, width, 2, 2, maps // 4)
    rows = phases.permute(0, 1, 3, 2, 4, 5)  # batch, height, phase y, width, phase x, maps
    return rows.reshape(batch, 2 * height, 2 * width, maps // 4).permute(0, 3, 1, 2)


def phase_kernels(weight: Tensor) -> Tensor:
    """The 3x3 kernels, (2 x 2 phases, maps_out) x maps_in x 3 x 3, that equal a 5x5 one after upsampling.

    One product with a matrix of zeros and ones; in channels_last memory neither side has to be rearranged for it.
    """
    maps_out, maps_in = weight.shape[:2]
    taps = weight.permute(0, 2, 3, 1).reshape(maps_out, 25, maps_in)
    sums = torch.matmul(_phase_sums(weight.device, weight.dtype), taps)  # out x (phase y, phase x, 3, 3) x in
    phases_first = sums.view(maps_out, 4, 9, maps_in).transpose(0, 1)
    return phases_first.reshape(4 * maps_out, 3, 3, maps_in).permute(0, 3, 1, 2)


@lru_cache(maxsize=8)
def _phase_sums(device: torch.device, dtype: torch.dtype) -> Tensor:
    """36 x 25: which of the 5x5 taps (columns) fall on which small-grid neighbour of which phase (rows)."""
    # Row i of `taps[phase]` says which of the 5 taps fall on small-grid neighbour i (-1, 0, +1):
    # phase 0 groups them 2 + 2 + 1, phase 1 groups them 1 + 2 + 2.
    with torch.inference_mode(False):  # it is kept, and training differentiates through it
        taps = torch.tensor(
            [[[1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]], [[1, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 1]]]
        )
        return torch.einsum("pau,qbv->pqabuv", taps, taps).reshape(36, 25).to(device, dtype)
