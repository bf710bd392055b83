"""The picture that explains a verdict, as a file: an image beside its anomaly map."""

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
    from PIL import Image

    from aesc.heatmaps import beside_its_image, overlay

    picture = Image.fromarray(beside_its_image(overlay(prediction, detector.operating_point, strategy), prediction))
    picture.thumbnail((2 * SIDE, SIDE))
    write_atomically(path, lambda temporary: picture.save(temporary, format="PNG"))
