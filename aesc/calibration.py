"""Thresholds that carry a promise, and the choice of a strategy, from clean calibration images alone.

Split-conformal calibration: Vovk, Gammerman & Shafer, "Algorithmic Learning in a Random World", 2005; Angelopoulos &
Bates, "A Gentle Introduction to Conformal Prediction", arXiv 2107.07511. If a new clean image and the n calibration
images are exchangeable, its score is as likely to take any of the n + 1 ranks, so it exceeds the k-th smallest
calibration score with a probability of at most (n + 1 - k) / (n + 1), whatever the detector and whatever the
distribution of its scores.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import ArrayLike
from pydantic import BaseModel, ConfigDict, Field, model_validator

from aesc.choice import choose
from aesc.errors import AescError
from aesc.params import Strategy

PREFERENCE: tuple[Strategy, ...] = ("residual", "combined", "uncertainty")
_ROUNDING = 1e-12  # of a cumulative probability


class Promise(BaseModel):
    """A threshold and its guarantee: a clean image scores strictly above it at a rate of at most `attained`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    what: str
    wished: Annotated[float, Field(gt=0.0, lt=1.0)]
    attained: Annotated[float, Field(gt=0.0, lt=1.0)]
    n: Annotated[int, Field(ge=1)]
    k: Annotated[int, Field(ge=1)]
    threshold: float
    kept: bool
    message: str

    @model_validator(mode="after")
    def _rank_exists(self) -> Self:
        if self.k > self.n:
            raise ValueError(f"k is {self.k}; allowed: 1 to n, which is {self.n}")
        return self


class StrategyChoice(BaseModel):
    """The chosen strategy, each one's mean AUROC, the AUROC by strategy and kind of corruption, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    strategy: Strategy
    means: dict[Strategy, float]
    evidence: dict[Strategy, dict[str, float]]
    reason: str


def conformal_threshold(
    scores: ArrayLike, *, alpha: float, on_shortage: Literal["attain", "stop"], what: str = "image score"
) -> Promise:
    """The k-th smallest calibration score, k = ceil((n + 1)(1 - alpha)), as a threshold.

    Args:
        scores: scores of n clean images that nothing else has seen.
        alpha: the wished rate of false alarms among clean images.
        on_shortage: if n images cannot support alpha (k > n), "attain" the best rate they do support, 1 / (n + 1),
            and say so in the promise, or "stop".
        what: what is thresholded, for messages.

    Raises:
        AescError: no scores, scores that are not finite, alpha outside (0, 1), or a shortage where that is to stop.
    """
    values = np.asarray(scores, dtype=np.float64).reshape(-1)
    n = values.size
    needed = images_needed(alpha)
    if n == 0:
        raise AescError(
            f"calibration ({what})",
            "no calibration images",
            allowed=f"at least 1; {needed} for {percent(alpha)} false alarms",
            todo="add clean images, or raise data.calibration",
        )
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise AescError(
            f"calibration ({what})",
            f"{bad.size} of {n} scores are not finite, the first is number {bad[0]}: {values[bad[0]]}",
            allowed="finite scores",
            todo="look at the training curve: the network has probably diverged",
        )
    k = math.ceil((n + 1) * (1 - _exact(alpha)))
    kept = k <= n
    if not kept:
        k = n
    attained = (n + 1 - k) / (n + 1)
    images = count(n, "calibration image")
    if kept:
        message = (
            f"{images} can support {_exact_percent(alpha)}; "
            f"at most {percent_promised(attained)} of clean images exceed the threshold of the {what}"
        )
    else:
        missing = needed - n
        message = (
            f"{images} cannot support {_exact_percent(alpha)}; the best is {percent_promised(attained)}; "
            f"{missing} more {'is' if missing == 1 else 'are'} needed"
        )
        if on_shortage == "stop":
            raise AescError(
                "calibration.false_alarm_rate",
                message,
                allowed=f"at least {percent_promised(attained)} with {images}",
                todo="add clean images, raise calibration.false_alarm_rate, or set calibration.on_shortage to attain",
            )
    return Promise(
        what=what,
        wished=float(alpha),
        attained=attained,
        n=n,
        k=k,
        threshold=float(np.partition(values, k - 1)[k - 1]),
        kept=kept,
        message=message,
    )


def pixel_threshold(map_maxima: ArrayLike, *, alpha: float, on_shortage: Literal["attain", "stop"]) -> Promise:
    """The same promise for maps: at most a share alpha of clean images shows any pixel above the threshold.

    Args:
        map_maxima: the largest value of each calibration image's anomaly map.
        alpha: as in `conformal_threshold`, as are the other argument and the errors.
    """
    return conformal_threshold(map_maxima, alpha=alpha, on_shortage=on_shortage, what="anomaly map maximum")


def images_needed(alpha: float) -> int:
    """The smallest number of calibration images that can support alpha: the smallest n with (n + 1) alpha >= 1."""
    return math.ceil(1 / _exact(alpha)) - 1


def allowed_false_alarms(promise: Promise | tuple[int, int], m: int, *, confidence: float = 0.95) -> int:
    """How many of m new clean images may raise an alarm before the promise is in doubt.

    For continuous scores the false-alarm rate of the k-th smallest of n calibration scores, over all calibration
    sets, is 1 - U(k) ~ Beta(n + 1 - k, k), U(k) being the k-th smallest of n uniform numbers; m new images then raise
    a beta-binomial(m, n + 1 - k, k) number of alarms (Vovk, "Conditional validity of inductive conformal predictors",
    2012; arXiv 2107.07511, section 3.2 and appendix C). Tied scores only make alarms rarer.

    Args:
        promise: a promise, or its (n, k).
        m: number of new clean images.
        confidence: in (0, 1).

    Returns:
        The smallest count c with P(alarms <= c) >= confidence.
    """
    n, k = (promise.n, promise.k) if isinstance(promise, Promise) else promise
    from scipy.stats import betabinom  # a second to import, and serving does not count alarms

    if not 1 <= k <= n or m < 0:
        raise AescError("promise", f"n = {n}, k = {k}, m = {m}", allowed="1 <= k <= n, and m of 0 or more")
    if not 0.0 < confidence < 1.0:
        raise AescError("confidence", f"{confidence:g}", allowed="above 0 and below 1")
    cumulative = betabinom.cdf(np.arange(m + 1), m, n + 1 - k, k)
    return int(np.argmax(cumulative >= confidence - _ROUNDING))


def choose_strategy(
    separations: Mapping[Strategy, Mapping[str, float]],
    *,
    tie: float,
    error: Callable[[Strategy, Strategy], float],
) -> StrategyChoice:
    """The strategy that best separates clean images from the same images with corruptions not trained on; among those
    that are tied the first of residual, combined, uncertainty (`aesc.choice.choose`: arguments and errors).
    """
    found = choose("strategy", separations, preference=PREFERENCE, tie=tie, error=error)
    return StrategyChoice(strategy=found.chosen, means=found.means, evidence=found.evidence, reason=found.reason)


def _exact(alpha: float) -> Fraction:
    """Alpha as it is written: 0.1 is one tenth, not the binary number next to it, or ceil() would go one too far."""
    if not 0.0 < alpha < 1.0:
        raise AescError("calibration.false_alarm_rate", f"{alpha!r}", allowed="above 0 and below 1")
    return Fraction(repr(float(alpha)))


def percent(rate: float) -> str:
    """0.01 is "1 %", 1 / 21 is "4.8 %", 1 / 300 is "0.33 %"; a rate that is not 0 or 1 never reads like it."""
    value = 100.0 * rate
    text = f"{value:.2g}" if value < 1.0 else f"{value:.1f}" if value < 99.0 else f"{value:.6g}"
    return f"{text.removesuffix('.0')} %"


def _exact_percent(rate: float) -> str:
    """What was wished for, as it was: a promise that is rounded up must not seem to exceed it."""
    return f"{100.0 * rate:g} %"


def percent_promised(rate: float) -> str:
    """As `percent`, rounded up: 1 / 14 is "7.2 %". A promise must not look better than it is."""
    value = 100.0 * rate
    digits = 1 if value >= 1.0 or value <= 0.0 else 1 - math.floor(math.log10(value))
    return percent(math.ceil(value * 10**digits - 1e-9) / 10**digits / 100.0)


def count(n: int, noun: str) -> str:
    """1 image, 2 images."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
