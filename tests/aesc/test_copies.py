"""Copies by perceptual hash: what makes one, what does not, and how near is too near."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image as PillowImage

from aesc.copies import HASH_BITS, CopyFinder, Hash, perceptual_hash
from aesc.images import Image, read_image_bytes


def picture(seed: int, side: int = 96) -> PillowImage.Image:
    """Stripes, a disc and grain: no two seeds alike."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side] / side
    grey = 120 + 50 * np.sin(rng.uniform(5, 25) * rows + rng.uniform(5, 25) * columns + rng.uniform(0, 6))
    centre, radius = rng.uniform(0.3, 0.7, 2), rng.uniform(0.1, 0.3)
    grey[(rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < radius**2] += 60
    pixels = grey[..., None] + rng.normal(0, 4, (side, side, 3))
    return PillowImage.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def decoded(image: PillowImage.Image, file_format: str = "PNG", **options: object) -> Image:
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return read_image_bytes(stream.getvalue(), "picture", max_megapixels=1)


def bits_between(one: Hash, other: Hash) -> int:
    """Counted one by one."""
    return sum(bin(int(a) ^ int(b)).count("1") for a, b in zip(one, other, strict=True))


def flipped(base: Hash, *positions: int) -> Hash:
    """`base` with these of its 256 bits turned over."""
    changed = base.copy()
    for at in positions:
        changed[at // 64] ^= np.uint64(1) << np.uint64(at % 64)
    return changed


def hashes(*rows: Hash) -> npt.NDArray[np.uint64]:
    return np.stack(rows)


BASE: Hash = np.array([0, 2**63, 12345678901234567890, 7], dtype=np.uint64)


@pytest.mark.parametrize(
    "copied",
    [
        lambda image: decoded(image, "JPEG", quality=80),
        lambda image: decoded(image, "BMP"),
        lambda image: decoded(image.resize((48, 48), PillowImage.Resampling.LANCZOS)),
        lambda image: decoded(image.point(lambda value: min(255, value + 6))),
    ],
    ids=["JPEG", "BMP", "half the size", "a little brighter"],
)
def test_a_copy_is_near_and_another_picture_is_far(copied: Callable[[PillowImage.Image], Image]) -> None:
    for seed in range(5):
        original = perceptual_hash(decoded(picture(seed)))
        assert original.shape == (HASH_BITS // 64,)
        near = bits_between(original, perceptual_hash(copied(picture(seed))))
        far = bits_between(original, perceptual_hash(decoded(picture(seed + 100))))
        assert near <= 16
        assert far >= 40


def test_sixteen_bits_are_brought_to_eight() -> None:
    grey = np.asarray(picture(1).convert("L"))
    eight = decoded(PillowImage.fromarray(grey))
    sixteen = decoded(PillowImage.fromarray(grey.astype(np.uint16) * 257))
    assert sixteen.full_scale == 65535
    assert bits_between(perceptual_hash(eight), perceptual_hash(sixteen)) == 0


def test_nearest_is_that_of_a_plain_search() -> None:
    rng = np.random.default_rng(0)
    known = rng.integers(0, 2**64, (50, 4), dtype=np.uint64)
    finder = CopyFinder([f"image {row}" for row in range(50)], known)
    for _ in range(20):
        wanted = rng.integers(0, 2**64, 4, dtype=np.uint64)
        distances = [bits_between(wanted, row) for row in known]
        assert finder.nearest(wanted) == (f"image {int(np.argmin(distances))}", min(distances))
    assert finder.nearest(flipped(known[17], 0, 63, 64, 255)) == ("image 17", 4)


def test_what_is_added_is_found() -> None:
    finder = CopyFinder([], np.empty((0, 4), np.uint64))
    assert finder.nearest(BASE) is None
    finder.add("first", BASE)
    assert len(finder) == 1
    assert finder.nearest(flipped(BASE, 3, 200)) == ("first", 2)


def test_the_limit_is_half_the_distance_of_different_pictures_or_what_is_asked_for() -> None:
    close = CopyFinder(["a", "b", "c"], hashes(BASE, flipped(BASE, *range(9)), flipped(BASE, *range(100, 130))))
    assert close.limit(10) == 4  # a and b, 9 bits apart, are pictures of their own
    assert close.limit(3) == 3
    apart = CopyFinder(["a", "b"], hashes(BASE, flipped(BASE, *range(100))))
    assert apart.limit(10) == 10


@pytest.mark.parametrize("known", [0, 1])
def test_too_few_known_images_set_no_limit_of_their_own(known: int) -> None:
    finder = CopyFinder(["a"][:known], hashes(BASE)[:known])
    assert finder.limit(10) == 10


def test_one_pair_of_copies_among_many_does_not_hide_other_copies() -> None:
    rng = np.random.default_rng(1)
    known = rng.integers(0, 2**64, (300, 4), dtype=np.uint64)
    known[7] = known[200]
    assert CopyFinder([str(row) for row in range(300)], known).limit(10) == 10


def test_more_known_images_than_the_sample_that_is_measured() -> None:
    rng = np.random.default_rng(2)
    known = np.concatenate([rng.integers(0, 2**64, (400, 4), dtype=np.uint64)] * 2)
    known[400:] = np.stack([flipped(row, 1, 2, 3, 4, 5, 6) for row in known[:400]])
    assert CopyFinder([str(row) for row in range(800)], known).limit(10) == 3
