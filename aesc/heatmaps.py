"""The pictures that explain a prediction: its anomaly map over its image, and the flagged area."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

from aesc.detector import Prediction
from aesc.operating_point import OperatingPoint
from aesc.panels import heatmap_overlay
from aesc.params import Strategy


def overlay(prediction: Prediction, point: OperatingPoint, strategy: Strategy | None = None) -> npt.NDArray[np.uint8]:
    """side x side x 3: the anomaly map of `strategy` (by default the one that decided) over the image, outlined where
    it exceeds the pixel threshold.

    Twice the pixel threshold is the brightest: what is flagged is in the upper half on every image.
    """
    shown = strategy or prediction.strategy
    threshold = point.pixel_promises[shown].threshold
    return heatmap_overlay(
        prediction.image, prediction.maps[shown], vmax=2.0 * threshold or 1.0, pixel_threshold=threshold
    )


def beside_its_image(heatmap: npt.NDArray[np.uint8], prediction: Prediction) -> npt.NDArray[np.uint8]:
    """side x 2 side x 3: the image as the network sees it, then its heatmap."""
    image = np.broadcast_to((prediction.image * 255.0).round().astype(np.uint8), heatmap.shape)
    return np.concatenate([image, heatmap], axis=1)


def to_png(pixels: npt.NDArray[np.uint8] | npt.NDArray[np.bool_]) -> bytes:
    """A PNG of height x width x 3, or of a mask: height x width, True is white."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()
