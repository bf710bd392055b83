"""Made-up anomaly maps for the benchmarks of metrics: as many and as large as MVTec bottle's test set has."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter


def made_up_maps(*, images: int = 83, side: int = 256, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Smooth noise, with one or two brighter discs in three images of four, and their masks."""
    rng = np.random.default_rng(seed)
    maps = gaussian_filter(rng.normal(size=(images, side, side)).astype(np.float32), (0, 2, 2)) * 4
    masks = np.zeros(maps.shape, dtype=bool)
    grid = np.mgrid[:side, :side]
    for index in range(images):
        for _ in range(index % 4 and rng.integers(1, 3)):
            centre, radius = rng.uniform(0.2, 0.8, 2) * side, rng.uniform(0.02, 0.1) * side
            disc = ((grid - centre[:, None, None]) ** 2).sum(0) < radius**2
            maps[index] += disc * np.float32(rng.uniform(0.5, 3.0))
            masks[index] |= disc
    return maps, masks
