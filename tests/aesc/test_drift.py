"""Recent scores against those of calibration: the test finds a shift, and looking again and again does not make one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import betabinom

from aesc.calibration import conformal_threshold
from aesc.drift import LEAST, MOST_EXACT, any_alarm, compare_alarms, compare_scores, spent
from aesc.errors import AescError

ALPHA = 0.05
LOOKS = 50


def test_all_looks_together_spend_alpha() -> None:
    assert spent(ALPHA, 1) == ALPHA / 2
    assert math.fsum(spent(ALPHA, look) for look in range(1, 10_000)) == pytest.approx(ALPHA, rel=1e-3)
    for look, alpha in ((0, 0.05), (1, 0.0), (1, 1.0)):
        with pytest.raises(AescError):
            spent(alpha, look)


def test_a_shift_is_found_in_both_directions_and_no_shift_is_not() -> None:
    rng = np.random.default_rng(0)
    calibration = rng.normal(size=60)
    for shift, said in ((1.0, "higher"), (-1.0, "lower")):
        found = compare_scores(rng.normal(shift, size=60), calibration, level=1e-3, what="x")
        assert found.alarm
        assert said in found.words
        assert found.effect is not None
        assert (found.effect > 0.5) == (shift > 0)
    same = compare_scores(rng.normal(size=60), calibration, level=1e-3, what="x")
    assert not same.alarm
    assert same.p is not None
    assert same.p > 1e-3


def test_the_rank_sum_is_counted_out_where_that_is_quick_and_known_exactly() -> None:
    """The most extreme of all orders of 5 and 6 numbers has probability 2 / C(11, 5)."""
    found = compare_scores(np.arange(5) + 10.0, np.arange(6) * 1.0, level=0.01, what="x")
    assert found.p == pytest.approx(2 / math.comb(11, 5))
    assert found.effect == 1.0
    many = compare_scores(np.linspace(0, 1, 200), np.linspace(0.5, 1.5, 101), level=0.01, what="x")
    assert MOST_EXACT < 200 * 101
    assert many.alarm


def test_tied_scores_and_few_images_raise_no_alarm() -> None:
    assert compare_scores([1.0] * 9, [1.0] * 9, level=0.5, what="x").p == 1.0
    few = compare_scores([9.0] * (LEAST - 1), [1.0] * 9, level=0.5, what="x")
    assert (few.p, few.alarm) == (None, False)
    assert "too few" in few.words
    with pytest.raises(AescError, match="not finite"):
        compare_scores([1.0, float("nan")], [1.0] * 9, level=0.5, what="x")


def test_the_number_of_alarms_follows_the_threshold_s_own_law() -> None:
    promise = conformal_threshold(np.arange(99.0), alpha=0.05, on_shortage="stop")
    found = compare_alarms(8, 40, promise, level=0.01, what="x")
    tail = math.fsum(betabinom.pmf(count, 40, 5, 95) for count in range(8, 41))
    assert found.p == pytest.approx(tail)
    assert found.alarm
    assert found.effect == 0.2
    assert not compare_alarms(2, 40, promise, level=0.01, what="x").alarm
    assert compare_alarms(0, 40, promise, level=0.01, what="x").p == 1.0
    assert compare_alarms(LEAST - 1, LEAST - 1, promise, level=0.5, what="x").p is None


def life(rng: np.random.Generator, *, calibration: int, images: int, shift_at: int | None = None) -> int | None:
    """The first look of a champion's life that raises the alarm, out of 50; images come from a skewed distribution.

    From look `shift_at` on they score higher, by the spread of the logarithm of their scores.
    """
    known = np.exp(rng.normal(0.0, 0.3, calibration))
    promise = conformal_threshold(known, alpha=0.05, on_shortage="attain")
    for look in range(1, LOOKS + 1):
        moved = 0.3 if shift_at is not None and look >= shift_at else 0.0
        scores = np.exp(rng.normal(moved, 0.3, images))
        passed, below = scores[scores <= promise.threshold], known[known < promise.threshold]
        level = spent(ALPHA, look) / 2
        parts = [
            compare_scores(passed, below, level=level, what="scores"),
            compare_alarms(int((scores > promise.threshold).sum()), images, promise, level=level, what="alarms"),
        ]
        if any_alarm(parts):
            return look
    return None


@pytest.mark.parametrize(("calibration", "images", "lives"), [(20, 30, 150), (120, 100, 60)])
def test_unchanged_images_hardly_ever_raise_an_alarm_over_50_looks(calibration: int, images: int, lives: int) -> None:
    rng = np.random.default_rng(1)
    alarms = sum(life(rng, calibration=calibration, images=images) is not None for _ in range(lives))
    assert alarms <= ALPHA * lives + 3 * math.sqrt(ALPHA * (1 - ALPHA) * lives)


@pytest.mark.slow
def test_the_same_with_1000_lives() -> None:
    rng = np.random.default_rng(2)
    lives = 1000
    alarms = sum(life(rng, calibration=20, images=30) is not None for _ in range(lives))
    print(f"\n{alarms} of {lives} lives of {LOOKS} looks raised an alarm, alpha {ALPHA}")
    assert alarms <= ALPHA * lives


def test_a_shift_within_a_life_is_found() -> None:
    rng = np.random.default_rng(3)
    found = [life(rng, calibration=120, images=100, shift_at=10) for _ in range(20)]
    assert sum(look is not None and look >= 10 for look in found) >= 18
