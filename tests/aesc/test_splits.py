from __future__ import annotations

import hashlib
from collections import Counter

import pytest

from aesc.splits import split_of

SHARES = {"train": 0.6, "validation": 0.2, "calibration": 0.2}
HASHES = [hashlib.sha256(str(index).encode()).hexdigest() for index in range(20_000)]


def test_shares_hold_over_many_images() -> None:
    counts = Counter(split_of(name, **SHARES) for name in HASHES)
    for split, share in SHARES.items():
        # Five standard errors of a binomial share.
        assert abs(counts[split] / len(HASHES) - share) < 5 * (share * (1 - share) / len(HASHES)) ** 0.5


def test_growth_moves_no_image() -> None:
    before = {name: split_of(name, **SHARES) for name in HASHES[:500]}
    after = {name: split_of(name, **SHARES) for name in reversed(HASHES)}
    assert all(after[name] == split for name, split in before.items())


def test_larger_train_share_only_adds_to_train() -> None:
    wider = {"train": 0.7, "validation": 0.15, "calibration": 0.15}
    small = {name for name in HASHES if split_of(name, **SHARES) == "train"}
    large = {name for name in HASHES if split_of(name, **wider) == "train"}
    assert small < large


def test_ends_of_the_range() -> None:
    assert split_of("0" * 64, **SHARES) == "train"
    assert split_of("f" * 64, **SHARES) == "calibration"


def test_known_values_never_change() -> None:
    assert [split_of(name, **SHARES) for name in HASHES[:8]] == [
        "train", "train", "calibration", "train", "train", "calibration", "calibration", "train",
    ]  # fmt: skip


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        split_of("abc", **SHARES)
    with pytest.raises(ValueError, match="sum to"):
        split_of("0" * 64, train=0.6, validation=0.2, calibration=0.3)
