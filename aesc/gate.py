"""The contamination gate: an image that is said to be clean, and that the champion would reject, is not taken in."""

from __future__ import annotations

from dataclasses import dataclass

from aesc.detector import Prediction
from aesc.operating_point import OperatingPoint
from aesc.params import Strategy

GATES: tuple[Strategy, ...] = ("residual", "uncertainty")


@dataclass(frozen=True)
class Alarm:
    """One strategy's score above its threshold."""

    strategy: Strategy
    score: float
    threshold: float

    def __str__(self) -> str:
        return f"{self.strategy} {self.score:.4g} above its threshold {self.threshold:.4g}"


def alarms(prediction: Prediction, point: OperatingPoint) -> tuple[Alarm, ...]:
    """The alarms of `prediction`: residual and uncertainty are both asked, whichever of them the verdict goes by.

    Each holds back at most its promised share of clean images, so both together at most the sum of the two shares.
    """
    found = []
    for strategy in GATES:
        score, threshold = prediction.scores[strategy], point.image_promises[strategy].threshold
        if not score <= threshold:  # a score that is no number is no proof of cleanness
            found.append(Alarm(strategy, score, threshold))
    return tuple(found)


def most_held_clean(point: OperatingPoint) -> float:
    """The largest share of clean images that the gate holds back, on average over calibration sets."""
    return min(1.0, sum(point.image_promises[strategy].attained for strategy in GATES))
