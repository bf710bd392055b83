from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from pydantic import ValidationError

from aesc.calibration import (
    Promise,
    allowed_false_alarms,
    choose_strategy,
    conformal_threshold,
    images_needed,
    percent_promised,
    pixel_threshold,
)
from aesc.errors import AescError


@pytest.mark.parametrize(
    ("n", "alpha", "k"),
    [
        (9, 0.1, 9),
        (99, 0.01, 99),
        (19, 0.05, 19),
        (199, 0.01, 198),
        (999, 0.003, 997),
        (29, 0.1, 27),
        (9, 0.3, 7),
        (19, 0.15, 17),
    ],
)
def test_k_is_exact_where_floats_would_be_one_off(n: int, alpha: float, k: int) -> None:
    scores = np.random.Generator(np.random.PCG64(n)).permutation(n).astype(float)
    promise = conformal_threshold(scores, alpha=alpha, on_shortage="stop")
    assert (promise.n, promise.k, promise.kept) == (n, k, True)
    assert promise.threshold == k - 1  # the k-th smallest of 0, 1, 2, ...
    assert promise.attained == pytest.approx((n + 1 - k) / (n + 1))
    assert promise.attained <= alpha + 1e-12


def test_images_needed_is_the_smallest_that_suffices() -> None:
    for text in ("0.5", "0.3", "0.1", "0.07", "0.05", "0.01", "0.003", "0.001"):
        alpha = Fraction(text)
        needed = images_needed(float(text))
        assert math.ceil((needed + 1) * (1 - alpha)) <= needed
        assert math.ceil(needed * (1 - alpha)) > needed - 1
    assert [images_needed(alpha) for alpha in (0.1, 0.05, 0.01)] == [9, 19, 99]
    assert images_needed(1e-6) == 999_999


def test_a_shortage_is_said_with_its_numbers() -> None:
    scores = np.arange(20.0)
    promise = conformal_threshold(scores, alpha=0.01, on_shortage="attain")
    assert promise.message == "20 calibration images cannot support 1 %; the best is 4.8 %; 79 more are needed"
    assert not promise.kept
    assert (promise.k, promise.threshold) == (20, 19.0)
    assert promise.attained == pytest.approx(1 / 21)
    assert promise.wished == 0.01
    with pytest.raises(AescError) as caught:
        conformal_threshold(scores, alpha=0.01, on_shortage="stop")
    assert caught.value.found == promise.message
    assert "on_shortage" in caught.value.todo


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (0.0, "0 %"),
        (1.0, "100 %"),
        (0.05, "5 %"),
        (1 / 14, "7.2 %"),
        (1 / 300, "0.34 %"),
        (1 / 4000, "0.025 %"),
        (0.995, "99.5 %"),
    ],
)
def test_a_promise_is_rounded_up(rate: float, text: str) -> None:
    assert percent_promised(rate) == text


def test_a_shortage_of_one_and_a_kept_promise_read_well() -> None:
    one = conformal_threshold([1.0], alpha=0.4, on_shortage="attain")
    assert one.message == "1 calibration image cannot support 40 %; the best is 50 %; 1 more is needed"
    rounded_up = conformal_threshold(np.arange(13.0), alpha=0.1, on_shortage="stop")  # 1 / 14 is 7.14 %
    assert "at most 7.2 % of clean images" in rounded_up.message
    kept = conformal_threshold(np.arange(40.0), alpha=0.05, on_shortage="stop")
    assert kept.message == (
        "40 calibration images can support 5 %; at most 4.9 % of clean images exceed the threshold of the image score"
    )


def test_bad_scores_and_rates_are_refused() -> None:
    for shortage in ("attain", "stop"):
        with pytest.raises(AescError, match="no calibration images"):
            conformal_threshold([], alpha=0.05, on_shortage=shortage)  # type: ignore[arg-type]
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(AescError, match="not finite, the first is number 1"):
            conformal_threshold([0.0, bad], alpha=0.5, on_shortage="attain")
    for alpha in (0.0, 1.0, -0.1, math.nan):
        with pytest.raises(AescError, match="false_alarm_rate"):
            conformal_threshold([0.0], alpha=alpha, on_shortage="attain")


def test_an_alarm_is_strictly_above_the_threshold() -> None:
    scores = np.full(50, 2.5, dtype=np.float32)
    promise = conformal_threshold(scores, alpha=0.05, on_shortage="stop")
    assert not (scores > promise.threshold).any()


def test_promise_survives_json_and_cannot_be_changed() -> None:
    promise = pixel_threshold(np.random.Generator(np.random.PCG64(0)).random(30), alpha=0.1, on_shortage="stop")
    assert "anomaly map maximum" in promise.message
    assert Promise.model_validate_json(promise.model_dump_json()) == promise
    with pytest.raises(ValidationError):
        promise.threshold = 0.0  # type: ignore[misc]
    with pytest.raises(ValidationError):
        Promise.model_validate({**promise.model_dump(), "k": 31})
    with pytest.raises(ValidationError):
        Promise.model_validate({**promise.model_dump(), "alpha": 0.1})


def test_pixel_threshold_promises_whole_images() -> None:
    rng = np.random.Generator(np.random.PCG64(1))
    maps = rng.random((40, 8, 8))
    promise = pixel_threshold(maps.max(axis=(1, 2)), alpha=0.1, on_shortage="stop")
    flagged = (maps > promise.threshold).any(axis=(1, 2))
    assert flagged.sum() == 40 - promise.k == 3


@pytest.mark.parametrize(("alpha", "n"), [(0.01, 150), (0.05, 39), (0.1, 24)])
def test_the_promise_holds_on_average_and_is_not_idle(alpha: float, n: int) -> None:
    rng = np.random.Generator(np.random.PCG64(n))
    draws = 2000
    # Uniform scores: the false-alarm rate of a threshold t is exactly 1 - t.
    rates = np.array(
        [1 - conformal_threshold(rng.random(n), alpha=alpha, on_shortage="stop").threshold for _ in range(draws)]
    )
    attained = conformal_threshold(rng.random(n), alpha=alpha, on_shortage="stop").attained
    noise = 4 * rates.std() / math.sqrt(draws)
    assert rates.mean() <= alpha + noise
    assert rates.mean() == pytest.approx(attained, abs=noise)
    assert attained > alpha - 1 / (n + 1)


def test_ties_only_make_alarms_rarer() -> None:
    rng = np.random.Generator(np.random.PCG64(8))
    rates = []
    for _ in range(500):
        scores = rng.integers(0, 5, 39)
        threshold = conformal_threshold(scores, alpha=0.1, on_shortage="stop").threshold
        rates.append((4 - threshold) / 5)
    assert np.mean(rates) <= 0.1


@pytest.mark.parametrize(("n", "k", "m"), [(20, 20, 20), (39, 38, 20), (99, 95, 50)])
def test_allowed_false_alarms_is_the_smallest_bound_that_holds(n: int, k: int, m: int) -> None:
    rng = np.random.Generator(np.random.PCG64(n))
    draws = 20_000
    thresholds = np.sort(rng.random((draws, n)), axis=1)[:, k - 1]
    alarms = (rng.random((draws, m)) > thresholds[:, None]).sum(axis=1)
    allowed = allowed_false_alarms((n, k), m)
    noise = 4 * math.sqrt(0.95 * 0.05 / draws)
    assert np.mean(alarms <= allowed) >= 0.95 - noise
    assert np.mean(alarms <= allowed - 1) < 0.95 + noise


def test_allowed_false_alarms_takes_a_promise_and_knows_its_ends() -> None:
    promise = conformal_threshold(np.arange(20.0), alpha=0.05, on_shortage="stop")
    assert allowed_false_alarms(promise, 20) == allowed_false_alarms((20, 20), 20)
    assert allowed_false_alarms(promise, 0) == 0
    # n = k = 1: the number of alarms is uniform on 0..m.
    assert allowed_false_alarms((1, 1), 9, confidence=0.5) == 4
    assert allowed_false_alarms((1, 1), 9, confidence=0.999) == 9
    for wrong in ((5, 6), (5, 0)):
        with pytest.raises(AescError, match="k ="):
            allowed_false_alarms(wrong, 10)
    with pytest.raises(AescError, match="confidence"):
        allowed_false_alarms((5, 5), 10, confidence=1.0)


def certain(best: str, name: str) -> float:
    """No error at all."""
    return 0.0


def test_the_best_separation_wins_with_its_numbers() -> None:
    choice = choose_strategy(
        {
            "combined": {"scratch": 0.98, "drops": 1.0},
            "residual": {"scratch": 0.90, "drops": 0.96},
            "uncertainty": {"scratch": 0.7, "drops": 0.9},
        },
        tie=0.005,
        error=certain,
    )
    assert choice.strategy == "combined"
    assert choice.means == pytest.approx({"residual": 0.93, "combined": 0.99, "uncertainty": 0.8})
    assert choice.evidence["residual"] == {"scratch": 0.90, "drops": 0.96}
    assert choice.reason == (
        "combined has the best mean AUROC on held-out drops and scratch: 0.9900, against residual 0.9300, "
        "uncertainty 0.8000"
    )
    assert type(choice).model_validate_json(choice.model_dump_json()) == choice


def test_ties_go_to_the_residual_then_to_combined() -> None:
    near = choose_strategy({"uncertainty": {"drops": 0.955}, "residual": {"drops": 0.95}}, tie=0.005, error=certain)
    assert near.strategy == "residual"
    assert near.reason == (
        "residual has mean AUROC 0.9500 on held-out drops, within 0.005 of the best (uncertainty 0.9550), "
        "and ties go to residual"
    )
    assert choose_strategy(
        {"uncertainty": {"drops": 0.956}, "residual": {"drops": 0.95}}, tie=0.005, error=certain
    ).strategy == ("uncertainty")
    assert choose_strategy(
        {"uncertainty": {"drops": 0.9}, "combined": {"drops": 0.899}, "residual": {"drops": 0.5}},
        tie=0.005,
        error=certain,
    ).strategy == ("combined")
    same = choose_strategy({name: {"drops": 1.0} for name in ("combined", "residual")}, tie=0.0, error=certain)  # type: ignore[misc]
    assert same.strategy == "residual"
    assert "only strategy" in choose_strategy({"residual": {"drops": 0.6}}, tie=0.0, error=certain).reason


def test_a_lead_within_one_standard_error_is_a_tie() -> None:
    found = {"uncertainty": {"drops": 0.93}, "residual": {"drops": 0.90}, "combined": {"drops": 0.91}}
    errors = {"residual": 0.02, "combined": 0.03}
    choice = choose_strategy(found, tie=0.005, error=lambda best, name: errors[name])  # type: ignore[arg-type]
    assert choice.strategy == "combined"
    assert choice.reason == (
        "combined has mean AUROC 0.9100 on held-out drops, within one standard error, 0.0300, of the best "
        "(uncertainty 0.9300), and ties go to combined"
    )
    assert type(choice).model_validate_json(choice.model_dump_json()) == choice
    small = choose_strategy(found, tie=0.05, error=certain)  # type: ignore[arg-type]
    assert small.strategy == "residual"


def test_evidence_that_cannot_be_compared_is_refused() -> None:
    with pytest.raises(AescError, match="choice of the strategy"):
        choose_strategy({}, tie=0.0, error=certain)
    with pytest.raises(AescError, match="choice of the strategy"):
        choose_strategy({"resdual": {"drops": 1.0}}, tie=0.0, error=certain)  # type: ignore[dict-item]
    with pytest.raises(AescError, match="every kind for every strategy"):
        choose_strategy({"residual": {"drops": 1.0}, "combined": {"scratch": 1.0}}, tie=0.0, error=certain)
    with pytest.raises(AescError, match="residual has"):
        choose_strategy({"residual": {"drops": math.nan}}, tie=0.0, error=certain)
