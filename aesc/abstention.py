"""When a detector abstains: near its threshold, where residual and uncertainty contradict each other.

"Near" is a band of ranks of the calibration scores around the threshold's own rank k. Of n + 1 exchangeable numbers at
most b - a have at least a of the others strictly below and n + 1 - b strictly above them. So a new clean image's score
lies strictly between the a-th and the b-th smallest of n calibration scores with a probability of at most
(b - a) / (n + 1), whatever the detector and the distribution, tied scores included (the argument of
aesc/calibration.py, between two ranks). Only images in the band can abstain: the share bounds the abstentions among
clean images however often the two maps contradict each other.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Annotated, Self

import numpy as np
from numpy.typing import ArrayLike
from pydantic import BaseModel, ConfigDict, Field, model_validator

from aesc.calibration import count, percent, percent_promised
from aesc.errors import AescError


class Abstention(BaseModel):
    """The band in which an image may abstain: scores strictly between `low` and `high`, None where there is no band.

    Attributes:
        wished: `calibration.abstention_rate`.
        attained: the bound on the share of clean images in the band, (k_high - k_low) / (n + 1); 0 without a band.
        n: calibration images.
        k_low, k_high: ranks, from 1, of the calibration scores `low` and `high`.
        message: for people.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    wished: Annotated[float, Field(ge=0.0, lt=1.0)]
    attained: Annotated[float, Field(ge=0.0, lt=1.0)]
    n: Annotated[int, Field(ge=1)]
    k_low: Annotated[int, Field(ge=1)] | None
    k_high: Annotated[int, Field(ge=1)] | None
    low: float | None
    high: float | None
    message: str

    @model_validator(mode="after")
    def _is_a_band_or_none(self) -> Self:
        bounds = (self.k_low, self.k_high, self.low, self.high)
        if any(bound is None for bound in bounds) and any(bound is not None for bound in bounds):
            raise ValueError(f"k_low, k_high, low, high are {bounds}; allowed: all of them, or none")
        if self.k_low is not None and self.k_high is not None and not self.k_low < self.k_high <= self.n:
            raise ValueError(f"k_low {self.k_low}, k_high {self.k_high}; allowed: k_low below k_high, at most n")
        return self

    def near(self, score: float) -> bool:
        """Whether `score` is in the band. NaN is not."""
        return self.low is not None and self.high is not None and self.low < score < self.high


def abstention_band(scores: ArrayLike, *, k: int, rate: float, both_maps: bool = True) -> Abstention:
    """The band of at most floor((n + 1) rate) ranks around rank `k`, reaching to the largest score if it can.

    The farther above the threshold a clean image's score may lie, the more false alarms can become questions to a
    person, so the band ends at rank n, and begins as low as the rate allows. Where that would be above k (a rate
    below the false-alarm rate) it is laid around k instead.

    Args:
        scores: scores of n clean calibration images, finite; those that the threshold is made of.
        k: rank of the threshold among them, 1 to n.
        rate: the wished bound on the share of clean images that abstain; 0 is off.
        both_maps: whether the network has an uncertainty; without one nothing can contradict the residual.

    Raises:
        AescError: no scores, or `rate` or `k` out of range.
    """
    values = np.sort(np.asarray(scores, dtype=np.float64).reshape(-1))
    n = values.size
    if not 1 <= k <= n:
        raise AescError("abstention", f"k = {k} of n = {n} calibration scores", allowed="1 <= k <= n")
    if not 0.0 <= rate < 1.0:
        raise AescError("calibration.abstention_rate", f"{rate!r}", allowed="0 (off) or more, below 1")
    exact = Fraction(repr(float(rate)))
    ranks = math.floor((n + 1) * exact)
    low = max(1, n - ranks)
    if low > k:
        low = max(1, k - ranks // 2)
    high = min(n, low + ranks)
    if not both_maps:
        return _nothing(rate, n, "no image abstains: the network has no dropout, so no uncertainty to contradict it")
    if rate == 0.0:
        return _nothing(rate, n, "no image abstains: calibration.abstention_rate is 0")
    if low >= high:
        needed = max(2, math.ceil(1 / exact) - 1)
        images = count(n, "calibration image")
        return _nothing(rate, n, f"no image abstains: {images} cannot support a band of {percent(rate)}, {needed} can")
    attained = (high - low) / (n + 1)
    return Abstention(
        wished=float(rate),
        attained=attained,
        n=n,
        k_low=low,
        k_high=high,
        low=float(values[low - 1]),
        high=float(values[high - 1]),
        message=(
            f"at most {percent_promised(attained)} of clean images abstain: those whose residual and uncertainty "
            f"contradict each other while the score is between ranks {low} and {high} of {n} calibration scores"
        ),
    )


def _nothing(rate: float, n: int, message: str) -> Abstention:
    return Abstention(
        wished=float(rate), attained=0.0, n=n, k_low=None, k_high=None, low=None, high=None, message=message
    )
