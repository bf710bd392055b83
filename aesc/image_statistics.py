"""What validation wants to know of an image: size, brightness, contrast, saturation, sharpness."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from aesc.files import write_atomically
from aesc.images import Image, above_half, to_grey

STATISTICS_FILE = "statistics-v1.parquet"  # raise the number when a statistic's meaning changes
_STRIP_PIXELS = 2**20


@dataclass(frozen=True)
class Statistics:
    """Statistics of one image at its own size; NaN where the image could not be decoded.

    Attributes:
        width, height: pixels.
        mode, bit_depth: as in `aesc.images.Image`.
        mean, std: of grey in 0 to 1.
        saturated: share of pixels at the lowest or the highest grey value.
        sharpness: variance of the Laplacian (4 neighbours) of grey in 0 to 1.
        above_half: share of pixels above half of full scale; the defect's area if the file is a mask.
    """

    width: int
    height: int
    mode: str
    bit_depth: int
    mean: float = math.nan
    std: float = math.nan
    saturated: float = math.nan
    sharpness: float = math.nan
    above_half: float = math.nan


def measure(image: Image) -> Statistics:
    """Measure an image, strip by strip so that a large one needs little memory beside its pixels."""
    grey = to_grey(image)
    full = image.full_scale
    counts = np.zeros(full + 1, dtype=np.int64)
    total = squares = 0.0
    step = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, step):
        counts += np.bincount(grey[top : top + step].ravel(), minlength=full + 1)
        strip = grey[max(top - 1, 0) : top + step + 1].astype(np.int32)
        neighbours = strip[:-2, 1:-1] + strip[2:, 1:-1] + strip[1:-1, :-2] + strip[1:-1, 2:]
        laplacian = (neighbours - 4 * strip[1:-1, 1:-1]).astype(np.float64)
        total += float(laplacian.sum())
        squares += float(np.square(laplacian).sum())
    values = np.arange(full + 1) / full
    shares = counts / grey.size
    mean = float(shares @ values)
    inner = (image.width - 2) * (image.height - 2)
    return Statistics(
        width=image.width,
        height=image.height,
        mode=image.mode,
        bit_depth=image.bit_depth,
        mean=mean,
        std=math.sqrt(float(shares @ np.square(values - mean))),
        saturated=float(shares[0] + shares[full]),
        sharpness=max(squares / inner - (total / inner) ** 2, 0.0) / full**2 if min(grey.shape) > 2 else 0.0,
        above_half=float(above_half(image).mean()),
    )


def load_statistics(path: Path) -> dict[str, Statistics]:
    """Statistics by the sha256 of their files; none if there is no such file yet or it is damaged."""
    try:
        records: list[dict[str, Any]] = pd.read_parquet(path).to_dict("records")  # type: ignore[assignment]
        return {str(record.pop("sha256")): Statistics(**record) for record in records}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def save_statistics(path: Path, statistics: Mapping[str, Statistics]) -> None:
    """Write statistics by sha256, atomically.

    Raises:
        AescError: the folder cannot be written.
    """
    frame = pd.DataFrame([{"sha256": sha256, **asdict(values)} for sha256, values in statistics.items()])
    write_atomically(path, lambda file: frame.to_parquet(file, index=False))
