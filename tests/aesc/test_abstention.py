"""The band in which an image may abstain: its bound holds whatever the scores, and too few images are said."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from pydantic import ValidationError

from aesc.abstention import Abstention, abstention_band
from aesc.calibration import conformal_threshold
from aesc.errors import AescError

Draw = Callable[[np.random.Generator, int], np.ndarray]
DRAWS: dict[str, Draw] = {
    "normal": lambda rng, size: rng.normal(size=size),
    "heavy tail": lambda rng, size: rng.pareto(0.8, size=size),
    "many ties": lambda rng, size: rng.integers(0, 6, size=size).astype(float),
    "two values": lambda rng, size: rng.integers(0, 2, size=size).astype(float),
    "all equal": lambda rng, size: np.ones(size),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
@pytest.mark.parametrize(("n", "alpha", "rate"), [(19, 0.05, 0.05), (40, 0.05, 0.1), (99, 0.1, 0.05), (30, 0.2, 0.5)])
def test_clean_images_fall_into_the_band_at_most_at_the_promised_rate(
    draw: Draw, n: int, alpha: float, rate: float
) -> None:
    """Every one of n + 1 exchangeable scores is as likely to be the new one: the share is counted over all of them."""
    rng = np.random.default_rng(n)
    k = conformal_threshold(np.arange(n), alpha=alpha, on_shortage="attain").k
    for _ in range(60):
        scores = draw(rng, n + 1)
        bands = [abstention_band(np.delete(scores, new), k=k, rate=rate) for new in range(n + 1)]
        inside = sum(band.near(score) for band, score in zip(bands, scores, strict=True))
        assert inside <= rate * (n + 1)
        assert inside / (n + 1) <= bands[0].attained + 1e-12
        assert bands[0].attained <= rate


def test_the_share_of_abstentions_on_clean_images_keeps_to_its_bound_when_the_maps_always_disagree() -> None:
    """Over 4,000 calibration sets of 40 and one new image each; the bound is nearly reached, so it is not idle."""
    rng = np.random.default_rng(0)
    sets = 4000
    near = 0
    for _ in range(sets):
        *calibration, new = rng.gamma(2.0, size=41)
        near += abstention_band(calibration, k=39, rate=0.1).near(new)
    promised = 4 / 41
    error = np.sqrt(promised * (1 - promised) / sets)
    assert abs(near / sets - promised) < 4 * error
    assert abstention_band(np.arange(40.0), k=39, rate=0.1).attained == pytest.approx(promised)


@pytest.mark.parametrize(
    ("n", "k", "rate", "ranks"),
    [
        (99, 95, 0.05, (94, 99)),  # reaches to the largest score
        (99, 95, 0.3, (69, 99)),
        (19, 19, 0.05, (18, 19)),
        (9, 9, 0.9, (1, 9)),  # no rank below the first
        (99, 90, 0.05, (88, 93)),  # too few ranks to reach it: around the threshold
        (99, 90, 0.01, (90, 91)),
        (999, 997, 0.003, (996, 999)),  # 3 ranks, exactly, where floats would say 2
    ],
)
def test_the_band_lies_at_the_threshold(n: int, k: int, rate: float, ranks: tuple[int, int]) -> None:
    scores = np.random.default_rng(n).permutation(n) + 1.0  # a score is its own rank
    band = abstention_band(scores, k=k, rate=rate)
    assert (band.k_low, band.k_high) == (band.low, band.high) == ranks
    assert band.near(k) or k in ranks
    assert band.attained == pytest.approx((ranks[1] - ranks[0]) / (n + 1))
    assert not band.near(float(ranks[0]))
    assert not band.near(float(ranks[1]))
    assert not band.near(float("nan"))


def test_where_there_is_no_band_the_message_says_why() -> None:
    few = abstention_band(np.arange(18.0), k=18, rate=0.05)
    assert few.message == "no image abstains: 18 calibration images cannot support a band of 5 %, 19 can"
    assert abstention_band([1.0], k=1, rate=0.5).message.endswith(
        "1 calibration image cannot support a band of 50 %, 2 can"
    )
    assert abstention_band(np.arange(19.0), k=19, rate=0.05).low is not None
    off = abstention_band(np.arange(40.0), k=39, rate=0.0)
    assert off.message == "no image abstains: calibration.abstention_rate is 0"
    certain = abstention_band(np.arange(40.0), k=39, rate=0.1, both_maps=False)
    assert "no dropout" in certain.message
    for nothing in (few, off, certain):
        assert (nothing.attained, nothing.low, nothing.high) == (0.0, None, None)
        assert not nothing.near(17.5)


def test_a_band_says_its_numbers() -> None:
    assert abstention_band(np.arange(99.0), k=95, rate=0.05).message == (
        "at most 5 % of clean images abstain: those whose residual and uncertainty contradict each other while the "
        "score is between ranks 94 and 99 of 99 calibration scores"
    )


def test_impossible_ranks_and_rates_are_refused() -> None:
    for k in (0, 4):
        with pytest.raises(AescError, match="1 <= k <= n"):
            abstention_band([1.0, 2.0, 3.0], k=k, rate=0.1)
    for rate in (-0.1, 1.0):
        with pytest.raises(AescError, match="abstention_rate"):
            abstention_band([1.0, 2.0, 3.0], k=3, rate=rate)
    band = abstention_band(np.arange(40.0), k=39, rate=0.1).model_dump()
    for change in ({"low": None}, {"k_high": 41}, {"k_low": band["k_high"]}):
        with pytest.raises(ValidationError):
            Abstention(**band | change)
