"""AUPRO and pixel AUROC as first written: a loop over thresholds with connected components, and scikit-learn."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.metrics import roc_auc_score

Maps = NDArray[np.float32]
Masks = NDArray[np.bool_]


def loop_aupro(maps: Maps, masks: Masks, *, thresholds: NDArray[np.float32], limit: float) -> float:
    """Area under the mean overlap of the regions against the false positive rate, at the given thresholds.

    Exact if `thresholds` holds every distinct score; the error of fewer is that of the trapezoids between them.
    """
    points = [(0.0, 0.0)]
    for threshold in np.sort(thresholds)[::-1]:
        overlaps = []
        false = normal = 0
        for scores, mask in zip(maps, masks, strict=True):
            found = scores >= threshold
            regions, count = ndimage.label(mask, structure=np.ones((3, 3)))
            for number in range(1, count + 1):
                region = regions == number
                overlaps.append((found & region).sum() / region.sum())
            false += (found & ~mask).sum()
            normal += (~mask).sum()
        points.append((false / normal, float(np.mean(overlaps))))
    rates, heights = (np.array(values) for values in zip(*points, strict=True))
    inside = rates < limit
    rates_inside = np.append(rates[inside], limit)
    heights_inside = np.append(heights[inside], np.interp(limit, rates, heights))
    return float(np.trapezoid(heights_inside, rates_inside) / limit)


def library_auroc(maps: Maps, masks: Masks) -> float:
    """The area under the ROC curve of all pixels by scikit-learn."""
    return float(roc_auc_score(masks.ravel(), maps.ravel()))
