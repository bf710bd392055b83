"""Images read the first way that comes to mind: opened and resized when a batch asks for them, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor


def read_image(path: Path, size: int) -> NDArray[np.uint8]:
    """size x size x 3, by area."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BOX))


def read_batch(paths: Sequence[Path], size: int) -> Tensor:
    """batch x 3 x size x size in [0, 1]."""
    images = [torch.from_numpy(read_image(path, size).transpose(2, 0, 1).copy()).float() / 255.0 for path in paths]
    return torch.stack(images)
