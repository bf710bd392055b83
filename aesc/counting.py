"""How many of many scores lie below each of fewer thresholds, exactly, without sorting the scores.

A score's distance from just below the lowest threshold chooses a bucket by the leading bits of that float, so that
buckets are finest where scores are dense: small ones mostly, and large ones rare. What of the thresholds lies in the
bucket is searched. Each score is read once, and parts of them are counted at once by threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from aesc.compiled import compiled

_Floats = NDArray[np.floating[Any]]
_Counts = NDArray[np.int64]
_Found = TypeVar("_Found")

_PARTS = 4
_LEAST_TO_SPLIT = 500_000  # scores: fewer are counted, or sorted, before threads have started
_BUCKETS_EACH = 16  # threshold: most buckets have none, and a look tells
_MOST_BUCKETS = 2**20  # 4 MB
_FINEST = 2.0**-12  # of the thresholds' range: buckets are no finer than those of distances of that size


def count_below(scores: _Floats, rising: _Floats) -> tuple[_Counts, _Counts]:
    """How many scores lie below each of the thresholds, and how many do not lie above it.

    Args:
        scores: finite, in any order; float32 (others are sorted).
        rising: at least one threshold, distinct and ascending, of the same type.
    """
    if scores.dtype != np.float32:
        ordered = np.sort(scores)
        return np.searchsorted(ordered, rising, side="left"), np.searchsorted(ordered, rising, side="right")
    rising = np.ascontiguousarray(rising)
    with np.errstate(over="ignore"):  # then few buckets are left, and all is searched
        finest = (rising[-1] - rising[0]) * np.float32(_FINEST)
        start = rising[0] - max(finest, np.spacing(np.abs(rising[0])))
        bits = (rising - start).view(np.int32)
    most, shift = min(_BUCKETS_EACH * rising.size, _MOST_BUCKETS), 0
    while (int(bits[-1]) >> shift) - (int(bits[0]) >> shift) >= most:
        shift += 1
    lowest = int(bits[0]) >> shift
    first = _first((bits >> shift) - np.int32(lowest))

    def count(part: _Floats) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        place = np.zeros(1, np.float32)
        return _count(np.ascontiguousarray(part), rising, first, start, place, place.view(np.int32), shift, lowest)

    counts = for_each(count, split(scores))
    below = np.sum([passed for passed, _ in counts], axis=0, dtype=np.int64).cumsum()[:-1]
    return below, below + np.sum([tied for _, tied in counts], axis=0, dtype=np.int64)


def split(scores: _Floats) -> list[_Floats]:
    """Parts to be worked on at once; one where that is soon done."""
    return np.array_split(scores, _PARTS if scores.size >= _LEAST_TO_SPLIT else 1)


def for_each(work: Callable[[_Floats], _Found], parts: Sequence[_Floats]) -> list[_Found]:
    """`work`, which must not hold the interpreter's lock, of each part, in as many threads."""
    if len(parts) < 2:
        return [work(part) for part in parts]
    with ThreadPoolExecutor(len(parts)) as threads:
        return list(threads.map(work, parts))


@compiled
def _first(buckets: NDArray[np.int32]) -> NDArray[np.int32]:
    """Where each bucket begins in the ascending `buckets` of the thresholds, and the end."""
    first = np.empty(buckets[-1] + 2, np.int32)
    filled = 0
    for number in range(buckets.size):
        while filled <= buckets[number]:
            first[filled] = number
            filled += 1
    first[filled] = buckets.size
    return first


@compiled
def _count(
    scores: NDArray[np.float32],
    rising: NDArray[np.float32],
    first: NDArray[np.int32],
    start: np.float32,
    place: NDArray[np.float32],
    bits: NDArray[np.int32],
    shift: int,
    lowest: int,
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """How many scores are at or above so many thresholds (0 to all), and how many are each of them.

    The first threshold of each bucket, and the end, are at `first`; `bits` is the integer of the float at `place`.
    """
    passed, tied = np.zeros(rising.size + 1, np.int32), np.zeros(rising.size, np.int32)
    least, most = rising[0], rising[-1]
    for score in scores:
        if score < least:
            passed[0] += 1
            continue
        if score > most:
            passed[-1] += 1
            continue
        place[0] = score - start
        bucket = (bits[0] >> shift) - lowest
        low, high = first[bucket], first[bucket + 1]
        while low < high:
            middle = (low + high) // 2
            if rising[middle] <= score:
                low = middle + 1
            else:
                high = middle
        passed[low] += 1
        if rising[low - 1] == score:
            tied[low - 1] += 1
    return passed, tied
