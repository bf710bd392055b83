"""A choice between ways to score, by how well each separates clean images from the same images with corruptions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict

from aesc.errors import AescError
from aesc.params import Detection, ResidualKind

Name = TypeVar("Name", bound=str)
_ROUNDING = 1e-12  # of means of numbers in [0, 1]


class Choice(NamedTuple, Generic[Name]):
    """The chosen one, each one's mean AUROC, the AUROC by name and kind of corruption, and why."""

    chosen: Name
    means: dict[Name, float]
    evidence: dict[Name, dict[str, float]]
    reason: str


class ResidualChoice(BaseModel):
    """The chosen residual, each one's mean AUROC, the AUROC by residual and kind of corruption, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    residual: ResidualKind
    means: dict[ResidualKind, float]
    evidence: dict[ResidualKind, dict[str, float]]
    reason: str


def choose(
    what: str,
    separations: Mapping[Name, Mapping[str, float]],
    *,
    preference: Sequence[Name],
    tie: float,
    error: Callable[[Name, Name], float],
) -> Choice[Name]:
    """The one with the best mean AUROC on corruptions that were not trained on, or the first that is tied with it.

    Those whose mean is within one standard error of the best, or within `tie`, are tied with it. That is the
    one-standard-error rule (Hastie, Tibshirani & Friedman, "The Elements of Statistical Learning", section 7.10) with
    the error of the difference: all are measured on the same images.

    Args:
        what: what is chosen, for messages.
        separations: AUROC by name, then by kind of corruption; the same kinds for every name.
        preference: all names that may be, the first to win a tie first.
        tie: the least margin of a tie.
        error: standard error of the difference of two means.

    Raises:
        AescError: no name, no kind, kinds that differ, or values outside [0, 1].
    """
    evidence = {name: dict(separations[name]) for name in preference if name in separations}
    kinds = sorted({kind for found in evidence.values() for kind in found})
    where = f"choice of the {what}"
    if not kinds or len(evidence) != len(separations):
        raise AescError(where, f"{dict(separations)}", allowed=f"AUROCs by kind for any of {', '.join(preference)}")
    for name, found in evidence.items():
        if sorted(found) != kinds:
            raise AescError(where, f"{name} has {sorted(found)}", allowed=f"every kind for every {what}: {kinds}")
        if not all(0.0 <= value <= 1.0 for value in found.values()):
            raise AescError(where, f"{name} has {found}", allowed="AUROCs from 0 to 1")
    means = {name: math.fsum(found.values()) / len(kinds) for name, found in evidence.items()}
    best = max(means, key=lambda name: means[name])
    margins = {name: max(tie, error(best, name)) for name in means if name != best}
    chosen = next(name for name in means if means[best] - means[name] <= margins.get(name, 0.0) + _ROUNDING)
    others = ", ".join(f"{name} {means[name]:.4f}" for name in means if name != chosen)
    seen = f"on held-out {' and '.join(kinds)}"
    if not others:
        reason = f"{chosen} is the only {what}: mean AUROC {means[chosen]:.4f} {seen}"
    elif chosen == best:
        reason = f"{chosen} has the best mean AUROC {seen}: {means[chosen]:.4f}, against {others}"
    else:
        within = f"{tie:g}" if margins[chosen] == tie else f"one standard error, {margins[chosen]:.4f},"
        reason = (
            f"{chosen} has mean AUROC {means[chosen]:.4f} {seen}, within {within} of the best "
            f"({best} {means[best]:.4f}), and ties go to {chosen}"
        )
    return Choice(chosen, means, evidence, reason)


def detection_with(detection: Detection, choice: ResidualChoice | None) -> Detection:
    """The same with the chosen residual."""
    return detection if choice is None else detection.model_copy(update={"residual": choice.residual})
