"""Defective images for a product that has none to show: a clean image with a corruption that training did not use."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch

from aesc.corruption import corrupt
from aesc.images import Image, Pixels
from aesc.params import Corruption, LocalKind


def poisoned(image: Image, *, kind: LocalKind, corruption: Corruption, generator: torch.Generator) -> Pixels:
    """The pixels of `image`, same shape and type, with one corruption of `kind` in its central square.

    Args:
        corruption: sizes and grey levels.
        generator: on the CPU; the same state gives the same defect.
    """
    pixels = np.atleast_3d(image.pixels)
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = torch.from_numpy(pixels[top : top + side, left : left + side].astype(np.float32) / image.full_scale)
    changed, _ = corrupt(
        square.permute(2, 0, 1)[None],
        params=corruption.model_copy(update={"kind": kind}),
        generator=generator,
    )
    result = pixels.copy()
    values = changed[0].permute(1, 2, 0).numpy() * image.full_scale
    result[top : top + side, left : left + side] = np.rint(values).astype(pixels.dtype)
    return cast(Pixels, result.reshape(image.pixels.shape))
