"""How many more clean images a category needs when its splits are too small."""

from __future__ import annotations

import math
from collections.abc import Mapping

_RISK = 0.1  # that a split is still short after that many more


def images_to_add(present: Mapping[str, int], *, minimum: Mapping[str, int], shares: Mapping[str, float]) -> int:
    """About how many more clean images fill every split, nine times in ten.

    A file's content decides its split, so no number is certain.

    Args:
        present: images in each split now.
        minimum: images that each split needs.
        shares: of new images that go to each split, on average.
    """
    short = {split: minimum[split] - present[split] for split in minimum if present[split] < minimum[split]}
    if not short:
        return 0
    count = max(math.ceil(lack / shares[split]) for split, lack in short.items())
    while sum(_chance_below(lack, count, shares[split]) for split, lack in short.items()) > _RISK:
        count += max(1, count // 50)
    return count


def _chance_below(wanted: int, trials: int, share: float) -> float:
    """P(X < wanted) of a binomial X, by logarithms: the coefficients overflow for thousands of trials."""
    fixed = math.lgamma(trials + 1)
    return sum(
        math.exp(
            fixed
            - math.lgamma(hits + 1)
            - math.lgamma(trials - hits + 1)
            + hits * math.log(share)
            + (trials - hits) * math.log1p(-share)
        )
        for hits in range(wanted)
    )
