"""Small categories in MVTec layout: wavy grey stripes, and dark spots for defects."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image


def draw_category(
    root: Path,
    name: str = "widget",
    *,
    train: int = 12,
    test_good: int = 3,
    defects: Mapping[str, int] | None = None,
    size: int = 64,
    channels: int = 3,
    masks: bool = True,
    seed: int = 0,
) -> Path:
    """Write a category below `root`, with 3 images of defect "spot" unless `defects` says otherwise; `root`."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size] / size

    def clean() -> np.ndarray:
        tint = rng.uniform(90, 160, channels)
        waves = 40 * np.sin(6.3 * (3 * rows + 2 * columns) + rng.uniform(0, 6.3))
        return np.clip(tint + waves[..., None] + rng.normal(0, 4, (size, size, channels)), 0, 255)

    def save(pixels: np.ndarray, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.squeeze(pixels.astype(np.uint8))).save(path)

    for folder, count in (("train/good", train), ("test/good", test_good)):
        for index in range(count):
            save(clean(), root / name / folder / f"{index:03d}.png")
    for defect, count in ({"spot": 3} if defects is None else defects).items():
        for index in range(count):
            centre = rng.uniform(0.3, 0.7, 2)
            mask = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < 0.12**2
            save(np.where(mask[..., None], 15, clean()), root / name / "test" / defect / f"{index:03d}.png")
            if masks:
                save(mask * 255, root / name / "ground_truth" / defect / f"{index:03d}_mask.png")
    return root
