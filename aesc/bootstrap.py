"""Bootstrap intervals of the metrics, over images: how much would the numbers move with other images of the same kind?

Percentile intervals (Efron & Tibshirani, "An Introduction to the Bootstrap", 1993). Clean and defective images are
drawn separately, so every resample has both. A resample is a vector of how often each image was drawn; its counts at
every threshold are weighted sums, so no score is sorted twice. For image scores this is exact. Pixel scores are first
put into bins, whose edges are quantiles of the normal pixels, of the defect pixels and of the regions' overlap, a
third each: the few bins that decide average precision and AUPRO are where the defects are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aesc.errors import AescError
from aesc.pixel_metrics import (
    Doubles,
    FloatArray,
    ImagePixels,
    PooledPixels,
    area_under_pro,
    area_under_roc,
    average_precision,
    pool_pixels,
    split_images,
)

_BATCH = 128  # resamples evaluated at once; bounds memory, and is part of what a seed means


@dataclass(frozen=True)
class Intervals:
    """(low, high) by metric name; no name where the metric or its interval is not available."""

    bounds: Mapping[str, tuple[float, float]]
    n: int
    confidence: float
    seed: int
    n_good: int
    n_defective: int


def bootstrap_image_metrics(scores: ArrayLike, labels: ArrayLike, *, n: int, confidence: float, seed: int) -> Intervals:
    """Intervals of auroc, average_precision and f1_max.

    Args:
        scores: one finite score an image, higher is more anomalous.
        labels: 1 for a defective image, 0 for a clean one.
        n: resamples; 0 gives no intervals.
        confidence: share of the resamples inside the interval.
        seed: of the draws.

    Returns:
        Intervals; without bounds if n is 0 or either class has fewer than 2 images, which cannot say how images vary.

    Raises:
        AescError: as `image_metrics`; n below 0, confidence outside (0, 1).
    """
    _check(n, confidence)
    values, defective = check_scores(scores, labels)
    order = np.argsort(values)[::-1]
    values, defective = values[order], defective[order]
    last = np.flatnonzero(np.append(values[1:] != values[:-1], True)) if values.size else np.empty(0, dtype=np.intp)

    def evaluate(weights: Doubles) -> dict[str, Doubles]:
        true = _from_zero((weights * defective).cumsum(axis=1)[:, last])
        false = _from_zero((weights * ~defective).cumsum(axis=1)[:, last])
        f1 = 2 * true / (true + false + true[:, -1:])
        return {
            "auroc": area_under_roc(false, true),
            "average_precision": average_precision(false, true),
            "f1_max": f1.max(axis=1),
        }

    n_defective = int(defective.sum())
    enough = min(n_defective, defective.size - n_defective) >= 2
    bounds = _bounds(evaluate, defective, n=n if enough else 0, confidence=confidence, seed=seed)
    return Intervals(bounds, n, confidence, seed, n_good=defective.size - n_defective, n_defective=n_defective)


def bootstrap_pixel_metrics(
    maps: Iterable[FloatArray],
    masks: Iterable[NDArray[np.bool_] | None] | None,
    *,
    n: int,
    confidence: float,
    seed: int,
    limit: float = 0.3,
    bins: int = 2048,
    labels: ArrayLike | None = None,
) -> Intervals:
    """Intervals of the pixel metrics auroc, average_precision and aupro.

    Memory: as `pixel_metrics`, plus 24 bytes for each bin of each image. The other arguments and the errors are those
    of `pixel_metrics` and `bootstrap_image_metrics`.

    Args:
        bins: at most so many bins for the scores; maps with fewer distinct values are evaluated exactly.
    """
    images = split_images(maps, masks, labels=labels)
    return bootstrap_pixels(images, pool_pixels(images), n=n, confidence=confidence, seed=seed, limit=limit, bins=bins)


def bootstrap_pixels(
    images: Sequence[ImagePixels | None],
    pool: PooledPixels,
    *,
    n: int,
    confidence: float,
    seed: int,
    limit: float,
    bins: int = 2048,
) -> Intervals:
    """`bootstrap_pixel_metrics` for images that are split and pooled already."""
    _check(n, confidence)
    kept = [image for image in images if image is not None]
    defective = np.array([image.n_regions > 0 for image in kept], dtype=bool)
    n_defective, n_good = int(defective.sum()), int((~defective).sum())
    # Defective images have normal pixels too, so no clean image at all is fine; a single one cannot be resampled.
    enough = pool.measurable and n_defective >= 2 and n_good != 1
    bounds: dict[str, tuple[float, float]] = {}
    if enough and n:
        normal, defect, overlap = bin_images(kept, bin_edges(pool, bins=bins))

        def evaluate(weights: Doubles) -> dict[str, Doubles]:
            return binned_metrics(weights @ normal, weights @ defect, weights @ overlap, limit=limit)

        bounds = _bounds(evaluate, defective, n=n, confidence=confidence, seed=seed)
    return Intervals(bounds, n, confidence, seed, n_good=n_good, n_defective=n_defective)


def bin_edges(pool: PooledPixels, *, bins: int) -> FloatArray:
    """Lower edges, ascending, of at most `bins` bins that cover every score of the pool."""
    if bins < 3:
        raise AescError("bins", f"{bins}", allowed="at least 3")
    normal, rising, share = pool.ascending(), pool.defect[::-1], pool.share[::-1]
    distinct = np.unique(np.concatenate([_distinct(normal), _distinct(rising)]))
    if distinct.size <= bins:
        return distinct
    steps = np.linspace(0.0, 1.0, bins // 3)
    by_overlap = np.searchsorted(np.cumsum(share), steps * pool.n_regions).clip(max=rising.size - 1)
    picks = [
        normal[np.rint(steps * (normal.size - 1)).astype(np.intp)],
        rising[np.rint(steps * (rising.size - 1)).astype(np.intp)],
        rising[by_overlap],
    ]
    return np.unique(np.concatenate(picks))


def bin_images(images: Sequence[ImagePixels], edges: FloatArray) -> tuple[Doubles, Doubles, Doubles]:
    """Normal pixels, defect pixels and overlap, each an images x bins array with the highest bin first."""
    normal, defect, overlap = (np.zeros((len(images), edges.size)) for _ in range(3))
    for row, image in enumerate(images):
        below = np.searchsorted(image.normal, edges.astype(image.normal.dtype, copy=False), side="left")
        normal[row] = np.diff(np.append(below, image.normal.size))
        where = np.searchsorted(edges, image.defect, side="right") - 1
        defect[row] = np.bincount(where, minlength=edges.size)
        overlap[row] = np.bincount(where, weights=image.share, minlength=edges.size)
    return normal[:, ::-1], defect[:, ::-1], overlap[:, ::-1]


def binned_metrics(normal: Doubles, defect: Doubles, overlap: Doubles, *, limit: float) -> dict[str, Doubles]:
    """Pixel metrics from histograms (..., bins), highest bin first; the scores of one bin count as tied."""
    false, true = _from_zero(normal.cumsum(axis=-1)), _from_zero(defect.cumsum(axis=-1))
    covered = _from_zero(overlap.cumsum(axis=-1))
    # A resample of images that are all defect has no normal pixel, hence no rate.
    with np.errstate(invalid="ignore"):
        return {
            "auroc": area_under_roc(false, true),
            "average_precision": average_precision(false, true),
            "aupro": area_under_pro(false, covered, limit=limit),
        }


def check_scores(scores: ArrayLike, labels: ArrayLike) -> tuple[Doubles, NDArray[np.bool_]]:
    """Scores and whether each image is defective, or an AescError that says which is not as it should be."""
    values, given = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    if values.ndim != 1 or values.shape != given.shape:
        raise AescError(
            "image scores", f"scores of shape {values.shape}, labels of {given.shape}", allowed="one of each an image"
        )
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise AescError("image scores", f"score {bad[0]} is {values[bad[0]]}", allowed="finite numbers")
    if not np.isin(given, (0, 1)).all():
        raise AescError("image labels", f"{sorted(set(given.tolist()))}", allowed="0 (clean) and 1 (defective)")
    return values, given.astype(bool)


def _bounds(
    evaluate: Callable[[Doubles], dict[str, Doubles]],
    defective: NDArray[np.bool_],
    *,
    n: int,
    confidence: float,
    seed: int,
) -> dict[str, tuple[float, float]]:
    """Evaluate n stratified resamples, given as weights (resamples x images), and take the percentiles."""
    if not n:
        return {}
    rng = np.random.Generator(np.random.PCG64(seed))
    found: list[dict[str, Doubles]] = []
    for start in range(0, n, _BATCH):
        batch = min(_BATCH, n - start)
        weights = np.zeros((batch, defective.size))
        for stratum in (np.flatnonzero(~defective), np.flatnonzero(defective)):
            if stratum.size:
                shares = np.full(stratum.size, 1.0 / stratum.size)
                weights[:, stratum] = rng.multinomial(stratum.size, shares, size=batch)
        found.append(evaluate(weights))
    tail = (1.0 - confidence) / 2.0
    bounds = {}
    for name in found[0]:
        low, high = np.nanquantile(np.concatenate([part[name] for part in found]), [tail, 1.0 - tail])
        bounds[name] = (float(low), float(high))
    return bounds


def _check(n: int, confidence: float) -> None:
    if n < 0:
        raise AescError("evaluation.bootstrap", f"{n}", allowed="0 (no intervals) or more")
    if not 0.0 < confidence < 1.0:
        raise AescError("evaluation.confidence", f"{confidence:g}", allowed="above 0 and below 1")


def _distinct(rising: FloatArray) -> FloatArray:
    keep: NDArray[np.bool_] = np.append(True, rising[1:] != rising[:-1])
    return np.asarray(rising[keep])


def _from_zero(counts: Doubles) -> Doubles:
    return np.concatenate([np.zeros((*counts.shape[:-1], 1)), counts], axis=-1)
