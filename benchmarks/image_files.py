"""Many image files for the benchmarks, each with bytes of its own, made from a few drawn ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

DRAWN = 8


def write_images(folder: Path, *, count: int, side: int, seed: int = 0) -> list[Path]:
    """`count` PNG files of side x side RGB pixels with soft shapes and a camera's noise.

    What follows the end of a PNG is ignored by decoders: a number there makes the files of one picture differ, so that
    each is decoded by itself.
    """
    rng = np.random.default_rng(seed)
    drawn = []
    for number in range(min(DRAWN, count)):
        soft = gaussian_filter(rng.normal(size=(side, side, 3)), (side / 20, side / 20, 0))
        pixels = 128 + 40 * soft / soft.std() + rng.normal(0, 3, (side, side, 3))
        path = folder / f"drawn_{number}.png"
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path, compress_level=1)
        drawn.append(path.read_bytes())
        path.unlink()
    paths = []
    for number in range(count):
        paths.append(folder / f"{number:06d}.png")
        paths[-1].write_bytes(drawn[number % len(drawn)] + number.to_bytes(8, "big"))
    return paths
