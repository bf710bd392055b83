"""How well anomaly maps find defect pixels: AUROC, average precision and AUPRO, exact, ties included.

AUPRO is the area under the curve of the mean per-region overlap against the false positive rate of all normal pixels,
up to a limit of that rate (Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 2021), divided by the limit.
A region is an 8-connected component of a mask. Between two scores that defect pixels have, only the false positive
rate moves, so the curves bend at defect scores alone: all three metrics come from how many normal pixels lie below each
of those, for which only the defect pixels are sorted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from aesc.counting import count_below, for_each, split
from aesc.errors import AescError

FloatArray = NDArray[np.floating[Any]]
Doubles = NDArray[np.float64]

CURVE_POINTS = 2000
_EIGHT_CONNECTED = np.ones((3, 3), dtype=bool)


@dataclass(frozen=True)
class PixelMetrics:
    """Pixel metrics and what they were measured on; None where they are not available."""

    auroc: float | None
    average_precision: float | None
    aupro: float | None
    limit: float
    n_images: int
    n_masked: int
    n_left_out: int
    n_regions: int
    n_normal_pixels: int
    n_defect_pixels: int


@dataclass(frozen=True)
class ImagePixels:
    """One image's scores: normal pixels (ascending, if asked for), defect pixels, and their shares of their regions."""

    normal: FloatArray
    defect: FloatArray
    share: Doubles
    n_regions: int


@dataclass(frozen=True)
class PooledPixels:
    """The scores of several images: normal pixels in any order, defect pixels descending with their shares."""

    normal: FloatArray
    defect: FloatArray
    share: Doubles
    n_regions: int

    @property
    def measurable(self) -> bool:
        return self.normal.size > 0 and self.defect.size > 0

    def ascending(self) -> FloatArray:
        """`normal`, sorted in place: parts at once, then merged."""
        for_each(np.ndarray.sort, split(self.normal))
        self.normal.sort(kind="stable")  # which merges runs that are ascending already
        return self.normal


@dataclass(frozen=True)
class Sweep:
    """Pixels at or above a falling threshold, from none to all: normal, defect, and overlap summed over the regions."""

    false: Doubles
    true: Doubles
    overlap: Doubles


def pixel_metrics(
    maps: Iterable[FloatArray],
    masks: Iterable[NDArray[np.bool_] | None] | None,
    *,
    labels: ArrayLike | None = None,
    limit: float = 0.3,
) -> PixelMetrics:
    """Measure anomaly maps against defect masks.

    Memory: two copies of the scores in their own float type, plus 140 bytes a defect pixel and 4 MB; `maps` and
    `masks` are read once.

    Args:
        maps: H x W anomaly maps, higher is more anomalous; an N x H x W array or any iterable.
        masks: H x W masks, non-zero is defect; None (for an image or altogether) where there is no mask.
        labels: 1 for a defective image, 0 for a clean one; needed as soon as a mask is None. A clean image has no
            defect pixel; a defective one without a mask, or with an empty one (a defect too small to survive
            resizing), is left out as a whole.
        limit: the false positive rate, in (0, 1], up to which AUPRO integrates.

    Returns:
        The metrics; each None if no defect pixel or no normal pixel is there.

    Raises:
        AescError: sizes that do not fit, scores that are not finite, a clean image with defect pixels.
    """
    images = split_images(maps, masks, labels=labels, ascending=False)
    return measure_pixels(images, pool_pixels(images), limit=limit)


def pro_curve(
    maps: Iterable[FloatArray],
    masks: Iterable[NDArray[np.bool_] | None] | None,
    limit: float = 0.3,
    *,
    labels: ArrayLike | None = None,
) -> tuple[Doubles, Doubles] | None:
    """The curve under which AUPRO is measured, for a figure.

    Returns:
        False positive rates from 0 to `limit` and mean per-region overlaps, at most 2000 points of the exact curve;
        None where AUPRO is not available. Arguments and errors as in `pixel_metrics`.
    """
    _check_limit(limit)
    pool = pool_pixels(split_images(maps, masks, labels=labels, ascending=False))
    if not pool.measurable:
        return None
    sweep = sweep_thresholds(pool)
    rate, overlap = sweep.false / sweep.false[-1], sweep.overlap / sweep.overlap[-1]
    inside = int(np.searchsorted(rate, limit, side="right"))
    at_limit = overlap[-1] if inside == rate.size else np.interp(limit, rate[inside - 1 :], overlap[inside - 1 :])
    return thin_curve(np.append(rate[:inside], limit), np.append(overlap[:inside], at_limit))


def split_images(
    maps: Iterable[FloatArray],
    masks: Iterable[NDArray[np.bool_] | None] | None,
    *,
    labels: ArrayLike | None = None,
    ascending: bool = True,
) -> list[ImagePixels | None]:
    """Split each image's scores by its mask; None for an image that is left out.

    Args:
        maps, masks, labels: as in `pixel_metrics`.
        ascending: sort each image's normal pixels.
    """
    given: Sequence[int] | None = None if labels is None else [int(label) for label in np.asarray(labels)]
    images: list[ImagePixels | None] = []
    try:
        rows = zip(maps, repeat(None) if masks is None else masks, strict=masks is not None)
        for index, (scores, mask) in enumerate(rows):
            label = None if given is None else given[index] if index < len(given) else -1
            images.append(_split_image(index, np.asarray(scores), mask, label, ascending=ascending))
    except ValueError as error:
        if "zip()" not in str(error):
            raise
        raise AescError("anomaly maps", f"not as many as masks: {error}", allowed="one mask, or None, a map") from None
    if given is not None and len(given) != len(images):
        raise AescError("anomaly maps", f"{len(images)} maps and {len(given)} labels", allowed="one label a map")
    return images


def _split_image(
    index: int, scores: FloatArray, mask: ArrayLike | None, label: int | None, *, ascending: bool
) -> ImagePixels | None:
    where = f"anomaly map {index}"
    if scores.ndim != 2 or scores.size == 0:
        raise AescError(where, f"shape {scores.shape}", allowed="height x width, both above 0")
    if not np.isfinite(scores).all():
        raise AescError(
            where, "has values that are not finite", allowed="finite scores", todo="train again or lower the rate"
        )
    if scores.dtype not in (np.float32, np.float64):
        scores = scores.astype(np.float32 if scores.dtype == np.float16 else np.float64)
    if mask is None and label is None:
        raise AescError(
            where, "neither a mask nor a label", allowed="a label for every image, as soon as a mask is None"
        )
    defect = np.zeros(scores.shape, dtype=bool) if mask is None else np.asarray(mask).astype(bool, copy=False)
    if defect.shape != scores.shape:
        raise AescError(where, f"{scores.shape} with a mask of {defect.shape}", allowed="the same height and width")
    has_defect = bool(defect.any())
    if label == 0 and has_defect:
        raise AescError(where, "a clean image whose mask marks a defect", todo="mend the label or the mask")
    if label not in (None, 0) and not has_defect:
        return None
    owner, count = _regions(defect) if has_defect else (np.empty(0, dtype=np.int32), 0)
    normal = scores[~defect] if has_defect else scores.ravel()
    return ImagePixels(
        normal=np.sort(normal) if ascending else normal,
        defect=scores[defect],
        share=1.0 / np.bincount(owner, minlength=count + 1)[owner],
        n_regions=count,
    )


def _regions(defect: NDArray[np.bool_]) -> tuple[NDArray[np.int32], int]:
    """The region, from 1, of each defect pixel in the order of `scores[defect]`, and how many there are.

    Only the box around all defect pixels is looked at: regions are labelled pixel by pixel, most of them normal.
    """
    rows, columns = (np.flatnonzero(defect.any(axis=axis)) for axis in (1, 0))
    box = defect[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    regions, count = ndimage.label(box, structure=_EIGHT_CONNECTED)
    return regions[box], int(count)


def pool_pixels(images: Iterable[ImagePixels | None]) -> PooledPixels:
    """Pool the scores of the images that are not left out."""
    kept = [image for image in images if image is not None]
    if not kept:
        empty = np.empty(0)
        return PooledPixels(normal=empty, defect=empty, share=empty, n_regions=0)
    normal = np.concatenate([image.normal for image in kept])  # the only second copy of the scores
    # One float type for both, or every look-up would convert the larger array.
    defect = np.concatenate([image.defect for image in kept]).astype(normal.dtype, copy=False)
    order = np.argsort(defect)[::-1]
    share = np.concatenate([image.share for image in kept])
    return PooledPixels(
        normal=normal, defect=defect[order], share=share[order], n_regions=sum(image.n_regions for image in kept)
    )


def measure_pixels(images: Sequence[ImagePixels | None], pool: PooledPixels, *, limit: float) -> PixelMetrics:
    """The metrics of `images`, whose pool is `pool`."""
    _check_limit(limit)
    sweep = sweep_thresholds(pool) if pool.measurable else None
    return PixelMetrics(
        auroc=None if sweep is None else float(area_under_roc(sweep.false, sweep.true)),
        average_precision=None if sweep is None else float(average_precision(sweep.false, sweep.true)),
        aupro=None if sweep is None else float(area_under_pro(sweep.false, sweep.overlap, limit=limit)),
        limit=limit,
        n_images=sum(image is not None for image in images),
        n_masked=sum(image is not None and image.n_regions > 0 for image in images),
        n_left_out=sum(image is None for image in images),
        n_regions=pool.n_regions,
        n_normal_pixels=pool.normal.size,
        n_defect_pixels=pool.defect.size,
    )


def sweep_thresholds(pool: PooledPixels) -> Sweep:
    """Lower a threshold through every distinct defect score; two points each, just above it and at it."""
    last = np.flatnonzero(np.append(pool.defect[1:] != pool.defect[:-1], True))  # of each run of equal scores
    thresholds = pool.defect[last]
    below, at = (counts[::-1] for counts in count_below(pool.normal, thresholds[::-1]))
    n_normal = pool.normal.size
    false = np.empty(2 * last.size + 2)
    false[0], false[-1] = 0, n_normal
    false[1:-1:2] = n_normal - at
    false[2:-1:2] = n_normal - below

    def held(at: NDArray[Any]) -> Doubles:
        return np.repeat(np.concatenate([[0.0], at]), 2)

    return Sweep(false=false, true=held(last + 1), overlap=held(np.cumsum(pool.share)[last]))


def area_under_roc(false: Doubles, true: Doubles) -> Doubles:
    """AUROC from cumulative counts (..., points) that start at 0; a tie counts half."""
    return np.asarray(np.trapezoid(true, false, axis=-1) / (false[..., -1] * true[..., -1]))


def average_precision(false: Doubles, true: Doubles) -> Doubles:
    """Sum of precision times the step in recall, from cumulative counts (..., points) that start at 0."""
    selected = np.maximum(true[..., 1:] + false[..., 1:], 1.0)  # 0 selected: recall takes no step there
    steps = np.diff(true, axis=-1)
    return np.asarray((steps * true[..., 1:] / selected).sum(axis=-1) / true[..., -1])


def area_under_pro(false: Doubles, overlap: Doubles, *, limit: float) -> Doubles:
    """AUPRO from cumulative counts and overlaps (..., points) that start at 0; linear between points."""
    rate, height = false / false[..., -1:], overlap / overlap[..., -1:]
    span, width = np.diff(rate, axis=-1), np.diff(np.minimum(rate, limit), axis=-1)
    inside = np.divide(width, span, out=np.zeros_like(span), where=span > 0)
    area = width * (height[..., :-1] + 0.5 * inside * np.diff(height, axis=-1))
    return np.asarray(area.sum(axis=-1) / limit)


def thin_curve(x: Doubles, y: Doubles, *, points: int = CURVE_POINTS) -> tuple[Doubles, Doubles]:
    """At most `points` of a monotone curve's own points, evenly spaced along it, both ends kept."""
    if x.size <= points:
        return x, y
    travelled = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(x)) / np.ptp(x) + np.abs(np.diff(y)) / np.ptp(y))])
    wanted = np.linspace(0.0, travelled[-1], points)
    keep = np.unique(np.minimum(np.searchsorted(travelled, wanted), x.size - 1))
    keep[-1] = x.size - 1
    return x[keep], y[keep]


def _check_limit(limit: float) -> None:
    if not 0.0 < limit <= 1.0:
        raise AescError("evaluation.aupro_limit", f"{limit:g}", allowed="above 0 and at most 1")
