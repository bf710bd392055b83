"""Share of a training spent waiting for images: the decoded cache against reading files when a batch asks for them."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from aesc.cache import ImageCache, sha256_of
from aesc.params_file import load_params
from aesc.pixels import Pixels
from aesc.training import fit
from benchmarks.image_files import write_images
from benchmarks.reference.images import read_batch
from benchmarks.report import report

IMAGES, SIDE = 64, 900
PARAMS = ["training.epochs=1", "training.images_per_epoch=320", "training.device=cpu"]


class TimedPixels(Pixels):
    """Counts the seconds that batches take."""

    waited = 0.0

    def batch(self, indices: Tensor, turns: Tensor | None = None) -> Tensor:
        began = time.perf_counter()
        images = super().batch(indices, turns)
        self.waited += time.perf_counter() - began
        return images


class FilePixels(TimedPixels):
    """Reads the files of a batch when it is asked for."""

    paths: list[Path]

    def batch(self, indices: Tensor, turns: Tensor | None = None) -> Tensor:  # `paper` turns none
        began = time.perf_counter()
        images = read_batch([self.paths[index] for index in indices.tolist()], 256)
        self.waited += time.perf_counter() - began
        return images


def main() -> None:
    """Measure and print."""
    params = load_params(Path(__file__).parents[1] / "params.yaml", preset="paper", overrides=PARAMS)
    with tempfile.TemporaryDirectory() as scratch:
        paths = write_images(Path(scratch), count=IMAGES, side=SIDE)
        items = [(sha256_of(path), path) for path in paths]
        cache = ImageCache(Path(scratch) / "cache", size=256, channels=3)
        cache.add(items, max_megapixels=100)
        store, rows = cache.array(), cache.rows([sha256 for sha256, _ in items])
        shares, waits = {}, {}
        for kind in (TimedPixels, FilePixels):
            train, validation = (kind(store, part, torch.device("cpu")) for part in np.split(rows, [IMAGES - 16]))
            for part, part_paths in ((train, paths[: IMAGES - 16]), (validation, paths[IMAGES - 16 :])):
                part.paths = part_paths  # type: ignore[attr-defined]
            began = time.perf_counter()
            fit(train, validation, channels=3, params=params, device=torch.device("cpu"))
            whole = time.perf_counter() - began
            waits[kind] = train.waited + validation.waited
            shares[kind] = waits[kind] / whole
    batches = (params.training.images_per_epoch + 16) / params.training.batch_size
    report(
        "data_wait",
        value=100 * shares[TimedPixels],
        unit="% of training",
        ratio=waits[FilePixels] / waits[TimedPixels],
        n=1,
        milliseconds_a_batch=1000 * waits[TimedPixels] / batches,
        reference_percent=100 * shares[FilePixels],
    )


if __name__ == "__main__":
    main()
