"""Perceptual hashes of a category's images, kept by content so that each image is decoded for it once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from aesc.errors import AescError
from aesc.files import write_atomically
from tasks.settings import Settings

_KEPT = "perceptual_hashes_1.parquet"  # raise the number when `aesc.copies.perceptual_hash` changes


def hashes_of(
    images: Mapping[str, Path], *, settings: Settings, max_megapixels: float
) -> tuple[list[str], npt.NDArray[np.uint64]]:
    """The sha256 and the hashes (count x words) of `images` (path by sha256); unreadable ones are left out."""
    from aesc.cache import threaded_map
    from aesc.copies import HASH_BITS, perceptual_hash
    from aesc.images import read_image

    words = HASH_BITS // 64
    path = settings.cache / _KEPT
    known = _load(path)

    def one(item: tuple[str, Path]) -> tuple[str, bytes | None]:
        try:
            return item[0], perceptual_hash(read_image(item[1], max_megapixels=max_megapixels)).tobytes()
        except AescError:
            return item[0], None

    missing = [(sha256, file) for sha256, file in images.items() if sha256 not in known]
    fresh = {sha256: found for sha256, found in threaded_map(one, missing) if found is not None}
    if fresh:
        known |= fresh
        table = pd.DataFrame({"sha256": list(known), "hash": list(known.values())})
        write_atomically(path, lambda file: table.to_parquet(file, index=False))
    names = [sha256 for sha256 in images if sha256 in known]
    found = np.frombuffer(b"".join(known[sha256] for sha256 in names), dtype=np.uint64).reshape(-1, words)
    return names, found


def _load(path: Path) -> dict[str, bytes]:
    try:
        table = pd.read_parquet(path)
        return dict(zip(table["sha256"], table["hash"], strict=True))
    except (OSError, ValueError, KeyError):
        return {}
