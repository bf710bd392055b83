"""The picture that explains a verdict: an image beside its anomaly map."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from aesc.files import write_atomically

if TYPE_CHECKING:
    from aesc.detector import Detector, Prediction
    from aesc.params import Strategy

SIDE = 256  # of each half, pixels at most


def write_heatmap(prediction: Prediction, detector: Detector, path: Path, *, strategy: Strategy | None = None) -> None:
    """Write input and heatmap side by side as PNG, atomically.

    Args:
        strategy: whose map; by default the one that the verdict goes by.
    """
    import numpy as np
    from PIL import Image

    from aesc.panels import heatmap_overlay

    shown = strategy or prediction.strategy
    values = prediction.anomaly_map if shown == prediction.strategy else getattr(prediction, shown)
    threshold = detector.operating_point.pixel_promises[shown].threshold
    # Twice the pixel threshold is the brightest: what is flagged is in the upper half on every image.
    overlay = heatmap_overlay(prediction.image, values, vmax=2.0 * threshold or 1.0, pixel_threshold=threshold)
    image = np.broadcast_to((prediction.image * 255.0).round().astype(np.uint8), (*prediction.image.shape[:2], 3))
    picture = Image.fromarray(np.concatenate([image, overlay], axis=1))
    picture.thumbnail((2 * SIDE, SIDE))
    write_atomically(path, lambda temporary: picture.save(temporary, format="PNG"))
