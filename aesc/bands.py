"""What the statistics of a clean image may be, judged by those of the clean images that were accepted before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

BANDED: Mapping[str, str] = {
    "mean": "brightness",
    "std": "contrast",
    "sharpness": "sharpness",
    "saturated": "saturated share",
}
# The least spread that counts: a lamp that never varied in the first images is no proof that it never will.
_LEAST_SPREAD = {"mean": 0.01, "std": 0.005, "saturated": 0.005}
_LEAST_RELATIVE_SPREAD = {"sharpness": 0.05}  # of the median: its unit depends on the product


@dataclass(frozen=True)
class Band:
    """Limits of one statistic: `low` and `high` are allowed; made from `n` images."""

    low: float
    high: float
    n: int


def bands_of(accepted: pd.DataFrame, *, width: float, least_images: int) -> dict[str, Band]:
    """A band for each statistic of `BANDED`; none at all if fewer than `least_images` were accepted.

    A band reaches `width` interquartile ranges beyond the quartiles (Tukey's fences), not below 0 as no statistic is,
    and holds every accepted image.

    Args:
        accepted: one row an accepted clean image, with the statistics as columns.
    """
    bands: dict[str, Band] = {}
    if len(accepted) < least_images:
        return bands
    for name in BANDED:
        values = accepted[name].astype(float).to_numpy()
        low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
        least = _LEAST_SPREAD.get(name, _LEAST_RELATIVE_SPREAD.get(name, 0.0) * middle)
        reach = width * max(high - low, least)
        bands[name] = Band(
            low=float(min(max(low - reach, 0.0), values.min())),
            high=float(max(high + reach, values.max())),
            n=len(values),
        )
    return bands
