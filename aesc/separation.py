"""How well a score separates clean images from the same images with a corruption, and how certain that is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aesc.errors import AescError


class Separation(NamedTuple):
    """AUROC by kind of corruption, and each image's influence (count,) on the mean over the kinds.

    An influence says how the mean would move if the image counted more: the infinitesimal jackknife, for an AUROC the
    structural components of DeLong, DeLong & Clarke-Pearson, Biometrics 44, 1988, here of an image and its corruption
    together.
    """

    auroc: dict[str, float]
    influence: NDArray[np.float64]


def separation(clean: ArrayLike, corrupted: Mapping[str, ArrayLike]) -> Separation:
    """The separation of `count` images from their corruptions.

    Args:
        clean: (count,) one score an image.
        corrupted: by kind, (count,) the scores of the same images, corrupted, in the same order.

    Raises:
        AescError: no images, scores that are not finite, or an image without one of the corruptions.
    """
    before = np.asarray(clean, dtype=np.float64)
    auroc, influences = {}, [np.zeros(len(before))]
    for kind, scores in corrupted.items():
        after = np.asarray(scores, dtype=np.float64)
        _check(before, after, kind)
        outdone, outdoing = 1.0 - _shares_below(after, before), _shares_below(before, after)
        auroc[kind] = float(outdoing.mean())
        influences.append(outdone + outdoing - 2.0 * auroc[kind])
    return Separation(auroc, np.sum(influences, axis=0) / max(1, len(auroc)))


def error_of_difference(one: Separation, other: Separation) -> float:
    """Standard error of the difference of two separations' mean AUROC on the same images; infinite for a single one."""
    apart = one.influence - other.influence
    count = len(apart)
    return math.sqrt(float(apart @ apart) / (count * (count - 1))) if count > 1 else math.inf


def _check(before: NDArray[np.float64], after: NDArray[np.float64], kind: str) -> None:
    bad = [int((~np.isfinite(scores)).sum()) for scores in (before, after)]
    if not len(before) or before.shape != after.shape or any(bad):
        raise AescError(
            "calibration scores",
            f"{before.size} clean images, {bad[0]} without a finite score; {after.size} with {kind}, {bad[1]} without",
            allowed="one finite score for every image and each of its corruptions",
            todo="look at the training curve: the network has probably diverged",
        )


def _shares_below(scores: NDArray[np.float64], at: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each number of `at` the share of `scores` below it, equal ones counting half."""
    ordered = np.sort(scores)
    left, right = (np.searchsorted(ordered, at, side=side) for side in ("left", "right"))
    shares: NDArray[np.float64] = (left + right) / (2.0 * len(ordered))
    return shares
