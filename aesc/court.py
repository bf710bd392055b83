"""Champion against challenger on the same images: paired differences with intervals, and a verdict by fixed rules.

Both models have scored the same test images. A resample draws clean images and the images of each defect type anew, and
takes the same draw for both, so what the images have in common cancels out of the difference. The area under the ROC
curve is the mean over all pairs of a defective and a clean image of "the defective one scores higher" (a tie is one
half), so the difference of two areas is the mean of a difference of two such tables: exact, and no score is sorted.
Intervals are percentile intervals, like those of aesc/bootstrap.py; pixels are binned as there.

Differences are challenger minus champion. For the false-alarm rate less is better, for everything else more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aesc.bootstrap import bin_edges, bin_images, binned_metrics, check_scores
from aesc.errors import AescError
from aesc.metrics import image_metrics
from aesc.params import Promotion
from aesc.pixel_metrics import Doubles, ImagePixels, measure_pixels, pool_pixels

Ruling = Literal["PROMOTE", "HOLD", "REJECT"]
METRICS = ("image_auroc", "pixel_auroc", "aupro", "detection_rate", "false_alarm_rate")
LESS_IS_BETTER = frozenset({"false_alarm_rate"})
OWN_THRESHOLD = frozenset({"detection_rate", "false_alarm_rate"})
OVERALL = "all"
_BATCH = 128  # resamples at once: bounds memory, and is part of what a seed means
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Statement:
    """What one model says of the test images, in the images' order.

    Attributes:
        scores: one an image, higher is more anomalous.
        alarms: whether the model rejects the image at its own threshold.
        pixels: from `aesc.pixel_metrics.split_images`, None for an image that pixel metrics leave out.
    """

    scores: Doubles
    alarms: NDArray[np.bool_]
    pixels: Sequence[ImagePixels | None] = ()


@dataclass(frozen=True)
class Difference:
    """One metric of both models on the same images; None where it is not available.

    low and high bound challenger - champion; `n_good` and `n_defective` are the images it was measured on.
    """

    metric: str
    defect: str
    champion: float | None
    challenger: float | None
    low: float | None
    high: float | None
    n_good: int
    n_defective: int

    @property
    def available(self) -> bool:
        return self.champion is not None and self.challenger is not None

    @property
    def difference(self) -> float | None:
        """Challenger minus champion."""
        if self.champion is None or self.challenger is None:
            return None
        return self.challenger - self.champion

    @property
    def gain(self) -> tuple[float, float, float]:
        """(worst, estimate, best) of how much better the challenger is, whichever way the metric counts."""
        if self.difference is None or self.low is None or self.high is None:
            raise AescError(f"{self.metric} of {self.defect}", "not available", todo="add test images (with masks)")
        if self.metric in LESS_IS_BETTER:
            return -self.high, -self.difference, -self.low
        return self.low, self.difference, self.high


@dataclass(frozen=True)
class Judgement:
    """The verdict, why, and all numbers."""

    verdict: Ruling
    reasons: tuple[str, ...]
    differences: tuple[Difference, ...]
    n_good: int
    n_defective: int
    bootstrap: int
    confidence: float
    seed: int
    notes: tuple[str, ...] = field(default=())


def measure_difference(
    champion: Statement,
    challenger: Statement,
    labels: ArrayLike,
    defects: Sequence[str],
    *,
    n: int,
    confidence: float,
    seed: int,
    limit: float = 0.3,
    bins: int = 2048,
) -> tuple[Difference, ...]:
    """Every metric of both models with the interval of its difference, overall and by defect type.

    Args:
        champion, challenger: what each says of the same images.
        labels: 1 for a defective image, 0 for a clean one.
        defects: the defect type of each image; that of a clean one is not looked at.
        n, confidence, seed: resamples, the share of them inside the interval, seed of the draws.
        limit: AUPRO's; bins: at most so many for the pixel scores of a model.

    Returns:
        The five metrics of all images, then image_auroc and detection_rate of each defect type against all clean
        images. Pixel metrics are not available (None) without masks.

    Raises:
        AescError: scores that are not finite, numbers of images that differ, or fewer than two images of either class,
            which cannot say how images vary.
    """
    first, defective = check_scores(champion.scores, labels)
    second, _ = check_scores(challenger.scores, labels)
    kinds = np.array([str(kind) for kind in defects])
    if not first.shape == second.shape == kinds.shape == champion.alarms.shape == challenger.alarms.shape:
        raise AescError("the court", "the models were not asked about the same images", allowed="one score an image")
    n_good, n_defective = int((~defective).sum()), int(defective.sum())
    if min(n_good, n_defective) < 2:
        raise AescError(
            "the court",
            f"{n_good} clean and {n_defective} defective test images",
            allowed="at least 2 of each: fewer cannot say how images vary",
            todo="add test images",
        )
    names = [OVERALL, *sorted(set(kinds[defective].tolist()) - {OVERALL})]
    groups = {name: defective if name == OVERALL else defective & (kinds == name) for name in names}
    tables = _separation(second, defective) - _separation(first, defective)
    alarms = challenger.alarms.astype(float) - champion.alarms.astype(float)
    binned = [_binned(model.pixels, first.size, bins=bins) for model in (champion, challenger)]
    drawn: dict[tuple[str, str], list[Doubles]] = {}
    for weights in _draw([~defective, *(groups[name] for name in names[1:] or names)], n=n, seed=seed):
        good = weights[:, ~defective]
        drawn.setdefault(("false_alarm_rate", OVERALL), []).append(good @ alarms[~defective] / n_good)
        for name, rows in groups.items():
            bad, count = weights[:, rows], int(rows.sum())
            pairs = ((bad @ tables[rows[defective]]) * good).sum(axis=1)
            drawn.setdefault(("image_auroc", name), []).append(pairs / (count * n_good))
            drawn.setdefault(("detection_rate", name), []).append(bad @ alarms[rows] / count)
        old, new = (_pixel_metrics(weights, one, limit=limit) for one in binned)
        for metric in old.keys() & new.keys():
            drawn.setdefault((metric, OVERALL), []).append(new[metric] - old[metric])
    values = [_values(model, defective, groups, limit=limit) for model in (champion, challenger)]
    tail = (1.0 - confidence) / 2.0
    order = [(metric, OVERALL) for metric in METRICS]
    order += [(metric, name) for name in names[1:] for metric in ("image_auroc", "detection_rate")]
    found = []
    for key in order:
        both = values[0].get(key) is not None and values[1].get(key) is not None
        low, high = np.quantile(np.concatenate(drawn[key]), [tail, 1.0 - tail]) if both else (None, None)
        found.append(
            Difference(
                metric=key[0],
                defect=key[1],
                champion=values[0].get(key),
                challenger=values[1].get(key),
                low=None if low is None else float(low),
                high=None if high is None else float(high),
                n_good=n_good,
                n_defective=int(groups[key[1]].sum()),
            )
        )
    return tuple(found)


def judge(
    differences: Sequence[Difference], rules: Promotion, *, seed: int, leaked: int = 0, notes: Sequence[str] = ()
) -> Judgement:
    """The verdict.

    REJECT: the challenger was made from test images; it is below a floor; or the whole interval of the primary metric
    or of a guarded one is beyond its margin. PROMOTE: the interval of the primary metric lies above 0, no interval of a
    guarded area (image AUROC of a defect type, pixel AUROC, AUPRO) reaches beyond its margin, and neither rate is worse
    by more than its own. HOLD: all else, ties among it.

    A rate is held to its estimate, not to its interval: it depends on a threshold from a few calibration images, and no
    usual number of test images could show two of them to be close.

    Args:
        differences: from `measure_difference`.
        rules: primary metric, margins and floors.
        leaked: how many test images the challenger was made from.
        notes: what a reader must know beside the reasons.

    Raises:
        AescError: the primary metric, or one that a floor is set for, is not available.
    """
    by_key = {(one.metric, one.defect): one for one in differences}
    primary = by_key[rules.primary, OVERALL]
    if not primary.available:
        raise AescError(
            f"promotion.primary: {rules.primary}",
            "not available on the test images",
            allowed="a metric that they support (pixel metrics need masks)",
            todo="add masks, or set promotion.primary to image_auroc",
        )
    against: list[str] = []
    if leaked:
        against.append(f"leak: the challenger was made from {leaked} of the test images")
    against += _below_floors(by_key, rules)
    open_questions: list[str] = []
    guarded = [(one, margin) for one, margin in _guards(differences, rules) if one.available]
    for one, margin in [(primary, rules.margin), *guarded]:
        worst, estimate, best = one.gain
        if best < -margin - _ROUNDING:
            against.append(f"worse by more than {_points(margin)}: {describe(one)}")
        elif one.metric in OWN_THRESHOLD and estimate < -margin - _ROUNDING:
            open_questions.append(f"worse by more than {_points(margin)}, perhaps by chance: {describe(one)}")
        elif one.metric not in OWN_THRESHOLD and one is not primary and worst < -margin - _ROUNDING:
            open_questions.append(f"not shown to be within {_points(margin)}: {describe(one)}")
    worst, _, _ = primary.gain
    better = worst > _ROUNDING
    if not better:
        open_questions.insert(0, f"not shown to be better: {describe(primary)}")
    verdict: Ruling = "REJECT" if against else "HOLD" if open_questions else "PROMOTE"
    reasons = against or open_questions
    if verdict == "PROMOTE":
        reasons = [f"better: {describe(primary)}", f"all {len(guarded)} guarded metrics are within their margins"]
    return Judgement(
        verdict=verdict,
        reasons=tuple(dict.fromkeys(reasons)),
        differences=tuple(differences),
        n_good=primary.n_good,
        n_defective=primary.n_defective,
        bootstrap=rules.bootstrap,
        confidence=rules.confidence,
        seed=seed,
        notes=tuple(notes),
    )


def describe(one: Difference) -> str:
    """A difference in words, with its interval and what it was measured on."""
    name = one.metric.replace("_", " ").replace("auroc", "AUROC").replace("aupro", "AUPRO")
    if one.defect != OVERALL:
        name += f" of {one.defect}"
    if one.champion is None or one.challenger is None:
        return f"{name} not available"
    images = f"{one.n_good} clean" if one.metric == "false_alarm_rate" else f"{one.n_good} + {one.n_defective}"
    return (
        f"{name} {one.champion:.4f} -> {one.challenger:.4f} "
        f"({one.difference:+.4f}, interval {one.low:+.4f} to {one.high:+.4f}, {images} images)"
    )


def _guards(differences: Sequence[Difference], rules: Promotion) -> Iterator[tuple[Difference, float]]:
    own = dict(rules.margins)
    for one in differences:
        if one.metric == "false_alarm_rate":
            yield one, rules.false_alarm_margin
        elif one.metric == "detection_rate":
            if one.defect == OVERALL:
                yield one, rules.detection_margin
        elif one.defect != OVERALL:
            yield one, own.get(one.defect, rules.margin)
        elif one.metric != rules.primary:
            yield one, rules.margin


def _below_floors(by_key: Mapping[tuple[str, str], Difference], rules: Promotion) -> Iterator[str]:
    for metric, floor in (
        ("image_auroc", rules.least_image_auroc),
        ("aupro", rules.least_aupro),
        ("detection_rate", rules.least_detection_rate),
    ):
        value = _required(by_key, metric, floor)
        if value is not None and floor is not None and value < floor:
            yield f"below the floor: {metric} is {value:.4f}; promotion.least_{metric} is {floor:g}"
    value = _required(by_key, "false_alarm_rate", rules.most_false_alarm_rate)
    if value is not None and rules.most_false_alarm_rate is not None and value > rules.most_false_alarm_rate:
        yield (
            f"above the ceiling: false_alarm_rate is {value:.4f}; "
            f"promotion.most_false_alarm_rate is {rules.most_false_alarm_rate:g}"
        )


def _required(by_key: Mapping[tuple[str, str], Difference], metric: str, limit: float | None) -> float | None:
    value = by_key[metric, OVERALL].challenger
    if limit is not None and value is None:
        raise AescError(
            f"promotion: a limit for {metric}",
            "the metric is not available on the test images",
            allowed="a limit on a metric that they support",
            todo="add masks, or set the limit to null",
        )
    return value


def _points(margin: float) -> str:
    return f"{100 * margin:g} points"


def _separation(scores: Doubles, defective: NDArray[np.bool_]) -> Doubles:
    """Defective x clean: 1 where the defective image scores higher, 0.5 where both score the same."""
    bad, good = scores[defective][:, None], scores[~defective][None, :]
    return np.asarray((bad > good) + 0.5 * (bad == good), dtype=np.float64)


def _draw(strata: Sequence[NDArray[np.bool_]], *, n: int, seed: int) -> Iterator[Doubles]:
    """How often each image is drawn, resamples x images, in batches; every stratum keeps its size."""
    rng = np.random.Generator(np.random.PCG64(seed))
    for start in range(0, n, _BATCH):
        batch = min(_BATCH, n - start)
        weights = np.zeros((batch, strata[0].size))
        for stratum in strata:
            rows = np.flatnonzero(stratum)
            weights[:, rows] = rng.multinomial(rows.size, np.full(rows.size, 1.0 / rows.size), size=batch)
        yield weights


_Binned = tuple[NDArray[np.intp], Doubles, Doubles, Doubles]


def _binned(images: Sequence[ImagePixels | None], count: int, *, bins: int) -> _Binned | None:
    """Rows that pixel metrics include, and their histograms; None without masks."""
    if not images:
        return None
    if len(images) != count:
        raise AescError("the court", f"{len(images)} maps of {count} images", allowed="one map an image")
    pool = pool_pixels(images)
    if not pool.measurable:
        return None
    rows = np.flatnonzero([image is not None for image in images])
    kept = [image for image in images if image is not None]
    return rows, *bin_images(kept, bin_edges(pool, bins=bins))


def _pixel_metrics(weights: Doubles, binned: _Binned | None, *, limit: float) -> dict[str, Doubles]:
    if binned is None:
        return {}
    rows, normal, defect, overlap = binned
    drawn = weights[:, rows]
    found = binned_metrics(drawn @ normal, drawn @ defect, drawn @ overlap, limit=limit)
    return {"pixel_auroc": found["auroc"], "aupro": found["aupro"]}


def _values(
    model: Statement, defective: NDArray[np.bool_], groups: Mapping[str, NDArray[np.bool_]], *, limit: float
) -> dict[tuple[str, str], Any]:
    """The metrics themselves, exact, by metric and defect type."""
    found: dict[tuple[str, str], Any] = {("false_alarm_rate", OVERALL): float(model.alarms[~defective].mean())}
    for name, rows in groups.items():
        chosen = rows | ~defective
        found["image_auroc", name] = image_metrics(model.scores[chosen], defective[chosen]).auroc
        found["detection_rate", name] = float(model.alarms[rows].mean())
    pixels = measure_pixels(model.pixels, pool_pixels(model.pixels), limit=limit) if model.pixels else None
    found["pixel_auroc", OVERALL] = pixels.auroc if pixels else None
    found["aupro", OVERALL] = pixels.aupro if pixels else None
    return found
