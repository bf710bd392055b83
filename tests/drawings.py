"""What tests of figures share: a row of a panel, and what a figure that was drawn shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

from aesc.panels import PanelRow

CAPTION = "widget: 20 good and 12 defective test images, seed 1, data 0123456789ab, metric version 1"
SIDE = 32


def panel_row(**changes: object) -> PanelRow:
    rng = np.random.default_rng(1)
    channels = changes.pop("channels", 3)
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[8:16, 8:16] = True
    parts = {
        "title": "spot/003 - worst",
        "image": rng.random((SIDE, SIDE, channels)),
        "mask": mask,
        "reconstruction": rng.random((SIDE, SIDE, channels)),
        "residual": rng.random((SIDE, SIDE)),
        "uncertainty": 1e-4 * rng.random((SIDE, SIDE)),
        "score": 1.25,
        "verdict": "reject",
        "pixel_mask": mask,
    }
    return PanelRow(**{**parts, **changes})


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def written(monkeypatch: pytest.MonkeyPatch, draw: Callable[[], object]) -> str:
    """Every text that `draw` puts into a figure."""
    texts: list[str] = []
    original = matplotlib.text.Text.draw

    def spy(self: matplotlib.text.Text, *args: object, **kwargs: object) -> object:
        texts.append(self.get_text())
        return original(self, *args, **kwargs)

    monkeypatch.setattr(matplotlib.text.Text, "draw", spy)
    draw()
    return "\n".join(texts)
