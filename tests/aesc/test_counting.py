"""Counting below thresholds: exactly what a sorted search finds."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import DTypeLike, NDArray

from aesc import counting
from aesc.counting import count_below

CASES = {
    "normal": lambda rng: rng.normal(size=5000),
    "ties": lambda rng: np.rint(rng.normal(size=5000) * 4),
    "heavy tail": lambda rng: rng.standard_cauchy(size=5000),
    "seven orders": lambda rng: 10.0 ** rng.uniform(-30, 30, size=5000) * rng.choice([-1, 1], size=5000),
    "far from 0": lambda rng: 1e6 + rng.normal(size=5000) * 1e-2,
    "the largest": lambda rng: np.concatenate([rng.normal(size=3000), [-3e38, 3e38, 3.4e38]]),
    "zeros": lambda rng: rng.choice([-0.0, 0.0, 1.0, -1.0, 1e-45, -1e-45], size=5000),
    "one value": lambda _: np.full(100, 0.3),
}


def expected(scores: NDArray[np.floating], rising: NDArray[np.floating]) -> list[NDArray[np.int64]]:
    ordered = np.sort(scores)
    return [np.searchsorted(ordered, rising, side=side) for side in ("left", "right")]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", list(CASES))
def test_it_is_what_a_sorted_search_finds(name: str, dtype: DTypeLike) -> None:
    rng = np.random.default_rng(3)
    scores = CASES[name](rng).astype(dtype)
    shifted = np.concatenate([scores[:40], CASES[name](rng).astype(dtype)[:300], scores[:1] + dtype(1)])
    for rising in (np.unique(scores), np.unique(scores[: len(scores) // 3]), np.unique(shifted), scores[:1]):
        for found, want in zip(count_below(scores, rising), expected(scores, rising), strict=True):
            np.testing.assert_array_equal(found, want)


def test_parts_at_once_count_as_the_whole_does(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    scores = np.rint(rng.normal(size=20_001) * 500).astype(np.float32)
    rising = np.unique(scores[:2000])
    whole = count_below(scores, rising)
    monkeypatch.setattr(counting, "_LEAST_TO_SPLIT", 1000)
    assert len(counting.split(scores)) > 1
    for found, one, want in zip(count_below(scores, rising), whole, expected(scores, rising), strict=True):
        np.testing.assert_array_equal(found, want)
        np.testing.assert_array_equal(one, want)


def test_scores_without_any_are_none() -> None:
    for found in count_below(np.empty(0, np.float32), np.array([0.5, 1.0], np.float32)):
        np.testing.assert_array_equal(found, [0, 0])
