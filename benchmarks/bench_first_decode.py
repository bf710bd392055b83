"""The first decode of 900 x 900 images into the cache, and opening it; the number of images can be given (5000)."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from aesc.cache import ImageCache, sha256_of
from benchmarks.image_files import write_images
from benchmarks.reference.images import read_image
from benchmarks.report import report, timed

COUNT, SIDE, SIZE = 200, 900, 256
COMPARED = 100  # images that the reference decodes


def main() -> None:
    """Measure and print."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else COUNT
    with tempfile.TemporaryDirectory() as scratch:
        paths = write_images(Path(scratch), count=count, side=SIDE)
        items = [(sha256_of(path), path) for path in paths]
        cache = ImageCache(Path(scratch) / "cache", size=SIZE, channels=3)
        busy = time.process_time()
        seconds = timed(lambda: cache.add(items, max_megapixels=100))
        busy = time.process_time() - busy

        def opened() -> None:
            again = ImageCache(Path(scratch) / "cache", size=SIZE, channels=3)
            rows = again.rows([sha256 for sha256, _ in items])
            again.array()[rows[:16]].sum()

        opening = timed(opened)
        compared = paths[:COMPARED]
        reference = timed(lambda: np.stack([read_image(path, SIZE) for path in compared])) / len(compared)
        report(
            "first_decode",
            value=count / seconds,
            unit="images/s",
            ratio=reference * count / seconds,
            n=1,
            images=count,
            seconds=seconds,
            busy_cores=busy / seconds,
            seconds_to_open=opening,
            megabytes_a_file=paths[0].stat().st_size / 2**20,
        )


if __name__ == "__main__":
    main()
