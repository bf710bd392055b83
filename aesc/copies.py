"""Copies that a file's hash does not see: the same picture stored again, scaled or re-encoded.

A perceptual hash keeps the signs of an image's lowest frequencies (imagehash's `phash`, a DCT of the image at 64 pixels
a side); copies differ in few of its 256 bits. Pictures of one product are alike, so how few is a matter of the product:
one limit for all would take every bottle for a copy of another one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage

from aesc.images import Image

HASH_SIDE = 16
HASH_BITS = HASH_SIDE**2
_SAMPLE = 500  # hashes whose nearest neighbours are looked for
_TYPICAL_NEAREST = 0.1  # quantile: some of the images may be copies of each other

Hash = npt.NDArray[np.uint64]  # HASH_BITS // 64 words


def perceptual_hash(image: Image) -> Hash:
    """The 256 bits of `image` as four words; 16-bit images are brought to 8 bits."""
    import imagehash

    pixels = image.pixels if image.full_scale == 255 else (image.pixels >> 8).astype(np.uint8)
    bits = imagehash.phash(PillowImage.fromarray(pixels), hash_size=HASH_SIDE).hash
    return np.packbits(bits.reshape(-1)).view(np.uint64)


class CopyFinder:
    """Finds the known image that is most like another one.

    Args:
        names: what to call the known images.
        hashes: count x 4 words, one row a name.
    """

    def __init__(self, names: Sequence[str], hashes: npt.NDArray[np.uint64]) -> None:
        self._names = list(names)
        self._hashes = hashes.reshape(-1, HASH_BITS // 64)

    def __len__(self) -> int:
        return len(self._names)

    def add(self, name: str, found: Hash) -> None:
        """Let `name` be known from now on."""
        self._names.append(name)
        self._hashes = np.concatenate([self._hashes, found[None]])

    def nearest(self, wanted: Hash) -> tuple[str, int] | None:
        """The most similar known image and in how many bits it differs; None if none is known."""
        if not self._names:
            return None
        distances = self._distances(wanted)
        at = int(distances.argmin())
        return self._names[at], int(distances[at])

    def limit(self, most: int) -> int:
        """Up to how many bits a difference means a copy: `most`, or fewer where different pictures are nearly as close.

        Half the distance at which nine in ten known images have their nearest neighbour, or further off.
        """
        count = len(self._names)
        if count < 2:
            return most
        rows = np.unique(np.linspace(0, count - 1, min(count, _SAMPLE)).astype(int))
        nearest = []
        for row in rows:
            distances = self._distances(self._hashes[row])
            distances[row] = HASH_BITS
            nearest.append(int(distances.min()))
        return min(most, int(np.quantile(nearest, _TYPICAL_NEAREST)) // 2)

    def _distances(self, wanted: Hash) -> npt.NDArray[np.int64]:
        differing: npt.NDArray[np.int64] = np.bitwise_count(self._hashes ^ wanted).sum(axis=1, dtype=np.int64)
        return differing
