"""How well image scores tell defective images from clean ones, and the table of all metrics by defect type.

The metrics of maps are in aesc/pixel_metrics.py, the intervals in aesc/bootstrap.py. A metric that cannot be measured
(a class is missing, no masks) is None: never 0, never NaN.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from aesc.bootstrap import Intervals, bootstrap_image_metrics, bootstrap_pixels, check_scores
from aesc.errors import AescError
from aesc.params import Evaluation
from aesc.pixel_metrics import (
    Doubles,
    FloatArray,
    ImagePixels,
    PixelMetrics,
    measure_pixels,
    pool_pixels,
    split_images,
    thin_curve,
)

METRIC_VERSION = "1"
"""Goes with every recorded metric. It changes whenever the definition of any metric changes, here or in
aesc/pixel_metrics.py or aesc/bootstrap.py; numbers of different versions must not be compared."""

IMAGE_METRICS = ("auroc", "average_precision", "f1_max")
PIXEL_METRICS = ("auroc", "average_precision", "aupro")


@dataclass(frozen=True)
class ImageMetrics:
    """Image metrics and what they were measured on; None where they are not available."""

    auroc: float | None
    average_precision: float | None
    f1_max: float | None
    n_good: int
    n_defective: int

    @property
    def n(self) -> int:
        return self.n_good + self.n_defective


def image_metrics(scores: ArrayLike, labels: ArrayLike) -> ImageMetrics:
    """AUROC, average precision and the best F1 over all thresholds.

    Args:
        scores: one finite score an image, higher is more anomalous.
        labels: 1 (or True) for a defective image, 0 for a clean one.

    Returns:
        The metrics; all None unless both classes are there.

    Raises:
        AescError: lengths that differ, scores that are not finite, labels other than 0 and 1.
    """
    values, defective = check_scores(scores, labels)
    n_defective = int(defective.sum())
    n_good = defective.size - n_defective
    if not n_good or not n_defective:
        return ImageMetrics(None, None, None, n_good=n_good, n_defective=n_defective)
    precision, recall, _ = precision_recall_curve(defective, values)
    f1 = 2 * precision * recall / np.maximum(precision + recall, np.finfo(float).tiny)
    return ImageMetrics(
        auroc=float(roc_auc_score(defective, values)),
        average_precision=float(average_precision_score(defective, values)),
        f1_max=float(f1.max()),
        n_good=n_good,
        n_defective=n_defective,
    )


def roc_curve_points(scores: ArrayLike, labels: ArrayLike) -> tuple[Doubles, Doubles] | None:
    """The ROC curve of image scores, for a figure.

    Returns:
        False and true positive rates from 0 to 1, at most 2000 points; None unless both classes are there.
        Arguments and errors as in `image_metrics`.
    """
    values, defective = check_scores(scores, labels)
    if defective.all() or not defective.any():
        return None
    false, true, _ = roc_curve(defective, values)
    return thin_curve(false, true)


def metrics_table(
    scores: ArrayLike,
    labels: ArrayLike,
    defects: Sequence[str],
    maps: Iterable[FloatArray] | None,
    masks: Iterable[NDArray[np.bool_] | None] | None,
    *,
    params: Evaluation,
    seed: int,
) -> list[dict[str, Any]]:
    """All metrics, overall and for each defect type against all clean images.

    Args:
        scores: one finite image score an image.
        labels: 1 for a defective image, 0 for a clean one.
        defects: the defect type of each image; that of a clean image is not looked at.
        maps: H x W anomaly maps, read once; None where there are none, and then no pixel metric is available.
        masks: H x W masks, or None for images without one; see `pixel_metrics`.
        params: AUPRO's limit, number of resamples (0: no intervals) and confidence.
        seed: of the resamples.

    Returns:
        One row for "all", then one for each defect type by name, with the keys defect, n_good, n_defective, n_masked
        (defective images that the pixel metrics include) and, for each of image_auroc, image_average_precision,
        image_f1_max, pixel_auroc, pixel_average_precision and aupro, that name, name_low and name_high; None where not
        available.

    Raises:
        AescError: as `image_metrics` and `pixel_metrics`.
    """
    values, defective = check_scores(scores, labels)
    kinds = np.array([str(defect) for defect in defects])
    if kinds.shape != values.shape:
        raise AescError("image scores", f"{values.size} scores and {kinds.size} defect types", allowed="one an image")
    images: list[ImagePixels | None] = [None] * values.size
    if maps is not None:
        images = split_images(maps, masks, labels=defective)
    chosen = {"all": np.ones_like(defective)}
    # A type of that name would otherwise hide the overall row.
    for kind in sorted(set(kinds[defective].tolist()) - {"all"}):
        chosen[kind] = ~defective | (kinds == kind)
    return [
        {
            "defect": kind,
            **_measure(values[rows], defective[rows], list(compress(images, rows)), params=params, seed=seed),
        }
        for kind, rows in chosen.items()
    ]


def _measure(
    values: Doubles,
    defective: NDArray[np.bool_],
    images: Sequence[ImagePixels | None],
    *,
    params: Evaluation,
    seed: int,
) -> dict[str, Any]:
    pool = pool_pixels(images)
    n, confidence, limit = params.bootstrap, params.confidence, params.aupro_limit
    image = image_metrics(values, defective)
    pixel = measure_pixels(images, pool, limit=limit)
    image_bounds = bootstrap_image_metrics(values, defective, n=n, confidence=confidence, seed=seed)
    pixel_bounds = bootstrap_pixels(images, pool, n=n, confidence=confidence, seed=seed, limit=limit)
    return {
        "n_good": image.n_good,
        "n_defective": image.n_defective,
        "n_masked": pixel.n_masked,
        **_columns("image_", IMAGE_METRICS, image, image_bounds),
        **_columns("pixel_", PIXEL_METRICS, pixel, pixel_bounds),
    }


def _columns(
    prefix: str, names: Sequence[str], metrics: ImageMetrics | PixelMetrics, intervals: Intervals
) -> dict[str, float | None]:
    columns: dict[str, float | None] = {}
    for name in names:
        column = name if name == "aupro" else prefix + name
        columns[column] = getattr(metrics, name)
        columns[f"{column}_low"], columns[f"{column}_high"] = intervals.bounds.get(name, (None, None))
    return columns
