"""Pillow's resize as tensor arithmetic, bit for bit, so that a graph without Pillow sees the same pixels.

The weights are Pillow's (`precompute_coeffs` and `normalize_coeffs_8bpc` in its libImaging/Resample.c): by area where
an axis shrinks, bilinear where it grows, rounded to 22 binary digits; a sum is rounded half up, one axis after the
other. In float64 all of it is exact. Nothing depends on the sizes as Python numbers, so they may be symbols while a
graph is exported.
"""

from __future__ import annotations

import torch
from torch import Tensor

_UNITS = 2.0**22  # Pillow's fixed point


def resize_as_pillow(images: Tensor, size: int) -> Tensor:
    """`aesc.images.to_network_input` for 8-bit images: batch x channels x height x width to a square, whole numbers.

    Args:
        images: float64, values 0 to 255; also the result's.
        size: side of the result.
    """
    across = torch.floor(images @ _weights(images.shape[3], size).T + 0.5)
    return torch.floor(_weights(images.shape[2], size) @ across + 0.5)


def _weights(length: int, size: int) -> Tensor:
    """size x length: what each pixel of an axis adds to each of the result."""
    pixels = torch.arange(length, dtype=torch.float64)
    scale = (pixels[-1] + 1.0) / size
    centres = ((torch.arange(size, dtype=torch.float64) + 0.5) * scale)[:, None]
    shrinks = scale >= 1.0
    stretch = torch.clamp(scale, min=1.0)
    reach = torch.where(shrinks, 0.5, 1.0) * stretch
    first = torch.clamp(torch.trunc(centres - reach + 0.5), min=0.0)
    behind = torch.trunc(centres + reach + 0.5)
    away = (pixels - centres + 0.5) * (1.0 / stretch)
    area = ((away > -0.5) & (away <= 0.5)).double()
    bilinear = torch.clamp(1.0 - away.abs(), min=0.0)
    weights = torch.where(shrinks, area, bilinear) * ((pixels >= first) & (pixels < behind)).double()
    return torch.floor(weights * (1.0 / weights.sum(dim=1, keepdim=True)) * _UNITS + 0.5) / _UNITS
