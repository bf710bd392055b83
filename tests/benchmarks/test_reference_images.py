"""Files read when a batch asks for them give the pixels that the cache holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from aesc.cache import ImageCache, sha256_of
from aesc.pixels import Pixels
from benchmarks.image_files import write_images
from benchmarks.reference.images import read_batch


def test_a_batch_read_from_files_is_that_of_the_cache(tmp_path: Path) -> None:
    paths = write_images(tmp_path, count=10, side=96)
    items = [(sha256_of(path), path) for path in paths]
    assert len({sha256 for sha256, _ in items}) == 10, "every file has bytes of its own"
    cache = ImageCache(tmp_path / "cache", size=64, channels=3)
    cache.add(items, max_megapixels=1)
    pixels = Pixels(cache.array(), cache.rows([sha256 for sha256, _ in items]), torch.device("cpu"))
    found, expected = pixels.batch(torch.arange(10)), read_batch(paths, 64)
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1.01 / 255)  # resized in one step or in two
    assert (found - expected).abs().mean() < 0.3 / 255
