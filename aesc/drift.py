"""Whether recent scores are still those of the calibration images: a two-sample test that may look again and again.

A score above the threshold may come from a defect, so recent images are compared in two ways, each exact if clean
images now and calibration images are exchangeable:

- Those that pass, with the calibration images below the threshold: given the threshold, which is one of the calibration
  scores, both are draws from the same distribution cut off there. Wilcoxon's rank-sum test (Mann & Whitney, "On a test
  of whether one of two random variables is stochastically larger than the other", 1947) rather than
  Kolmogorov-Smirnov's: what happens to a camera, to light or to a material moves all scores up or down, and against a
  shift of a bell-shaped sample the rank sum needs 0.95 times the images that a t test needs, Kolmogorov-Smirnov's
  about half as many again. It asks for no distribution, and one outlier cannot decide it.
- How many are above: the threshold's own law, a beta-binomial one (see `aesc.calibration.allowed_false_alarms`). More
  than that are defects or a change; either way somebody should look.

Repeated looks spend the error: look k gets alpha / (k (k + 1)), and these add up to alpha however many looks there will
be. By the union bound the probability that unchanged images ever raise an alarm is at most alpha, whatever the looks
have in common: the calibration images, or images that were looked at before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import betabinom, mannwhitneyu

from aesc.calibration import Promise, percent_promised
from aesc.errors import AescError

MOST_EXACT = 10_000  # pairs of scores up to which the rank sum's distribution is counted out; it takes 0.1 s there
LEAST = 5  # scores on either side: fewer say nothing at the levels that later looks have


@dataclass(frozen=True)
class Comparison:
    """One test of a look.

    Attributes:
        what: which images, in words.
        n: recent images in it.
        n_calibration: calibration images that they were compared with.
        p: p-value; None where there are too few images.
        level: what p must not exceed for an alarm.
        effect: of scores, the probability that a recent image scores higher than a calibration image, 0.5 if nothing
            has changed; of alarms, their share among the recent images.
        alarm: whether p is at most the level.
        words: what was found.
    """

    what: str
    n: int
    n_calibration: int
    p: float | None
    level: float
    effect: float | None
    alarm: bool
    words: str


def spent(alpha: float, look: int) -> float:
    """The level of look number `look` (from 1): alpha / (look (look + 1)), which adds up to alpha over all looks.

    Raises:
        AescError: `look` is below 1, or alpha not in (0, 1).
    """
    if look < 1 or not 0.0 < alpha < 1.0:
        raise AescError("look", f"number {look} at alpha {alpha:g}", allowed="1 or more, alpha above 0 and below 1")
    return alpha / (look * (look + 1))


def compare_scores(recent: ArrayLike, calibration: ArrayLike, *, level: float, what: str) -> Comparison:
    """Wilcoxon's rank-sum test, two-sided: lower scores are a change too.

    Both samples must be cut off alike, see the module's text.

    Args:
        recent: scores of recent images.
        calibration: scores of calibration images.
        level: for an alarm.
        what: which images, for the report.

    Raises:
        AescError: a score is not finite.
    """
    new, old = _finite(recent, what), _finite(calibration, "calibration")
    if min(len(new), len(old)) < LEAST:
        words = f"too few images: {len(new)} recent, {len(old)} of calibration; at least {LEAST} of each are needed"
        return Comparison(what, len(new), len(old), None, level, None, False, words)
    untied = len(np.unique(np.concatenate([new, old]))) == len(new) + len(old)
    # Normal where counting would take minutes. The rank sum's own tails are the lighter ones: that errs to no alarm.
    method = "exact" if untied and len(new) * len(old) <= MOST_EXACT else "asymptotic"
    found = mannwhitneyu(new, old, alternative="two-sided", method=method)
    p, effect = float(found.pvalue), float(found.statistic) / (len(new) * len(old))
    if np.isnan(p):  # all scores are equal
        p = 1.0
    direction = "higher" if effect > 0.5 else "lower"
    alarm = p <= level
    words = (
        f"a recent image scores higher than a calibration image in {100 * effect:.0f} % of pairs (50 % if nothing has "
        f"changed), p = {p:.2g}"
    )
    if alarm:
        words += f", at most {level:.2g}: scores are {direction} than at calibration"
    return Comparison(what, len(new), len(old), p, level, effect, alarm, words)


def compare_alarms(alarms: int, images: int, promise: Promise, *, level: float, what: str) -> Comparison:
    """Whether `alarms` among `images` are more than clean images raise: P(at least so many), a beta-binomial tail."""
    if images < LEAST:
        words = f"too few images: {images}; at least {LEAST} are needed"
        return Comparison(what, images, promise.n, None, level, None, False, words)
    p = float(betabinom.sf(alarms - 1, images, promise.n + 1 - promise.k, promise.k))
    alarm = p <= level
    words = (
        f"{alarms} of {images} are above the threshold, promised are at most {percent_promised(promise.attained)} of "
        f"clean images, p = {p:.2g}" + (f", at most {level:.2g}: defects, or a change" if alarm else "")
    )
    return Comparison(what, images, promise.n, p, level, alarms / images, alarm, words)


def any_alarm(comparisons: Sequence[Comparison]) -> bool:
    """Whether a look raises the alarm."""
    return any(comparison.alarm for comparison in comparisons)


def _finite(scores: ArrayLike, what: str) -> np.ndarray:
    values = np.asarray(scores, dtype=np.float64).reshape(-1)
    if bad := int((~np.isfinite(values)).sum()):
        raise AescError(f"scores ({what})", f"{bad} of {len(values)} are not finite", allowed="finite scores")
    return values
