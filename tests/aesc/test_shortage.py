from __future__ import annotations

import numpy as np
import pytest

from aesc.shortage import images_to_add

SHARES = {"train": 0.6, "validation": 0.2, "calibration": 0.2}
MINIMUM = {"train": 10, "validation": 2, "calibration": 4}


def share_filled(present: dict[str, int], added: int) -> float:
    draws = np.random.default_rng(0).multinomial(added, list(SHARES.values()), size=20_000)
    return float(np.mean(np.all(draws + list(present.values()) >= list(MINIMUM.values()), axis=1)))


@pytest.mark.parametrize("present", [(0, 0, 0), (2, 0, 1), (30, 9, 1)])
def test_that_many_images_fill_the_splits_nine_times_in_ten_and_hardly_fewer_do(present: tuple[int, int, int]) -> None:
    counts = dict(zip(SHARES, present, strict=True))

    added = images_to_add(counts, minimum=MINIMUM, shares=SHARES)

    assert share_filled(counts, added) >= 0.89
    assert share_filled(counts, added - 3) < 0.9


def test_nothing_is_short() -> None:
    assert images_to_add(MINIMUM, minimum=MINIMUM, shares=SHARES) == 0


def test_thousands_do_not_overflow() -> None:
    added = images_to_add(
        dict.fromkeys(SHARES, 0), minimum={"train": 6000, "validation": 0, "calibration": 0}, shares=SHARES
    )

    assert 10_000 <= added <= 10_400
