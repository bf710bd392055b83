"""Bands of the statistics of accepted images."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from aesc.bands import BANDED, Band, bands_of


def accepted(n: int = 21, **columns: object) -> pd.DataFrame:
    """Statistics of `n` images, 0.3 to 0.5, unless `columns` says otherwise."""
    usual = dict.fromkeys(BANDED, np.linspace(0.3, 0.5, n))
    return pd.DataFrame({**usual, **columns})


def test_a_band_is_tukeys_fences() -> None:
    bands = bands_of(accepted(), width=1.5, least_images=20)
    assert set(bands) == set(BANDED)
    for band in bands.values():  # quartiles 0.35 and 0.45
        assert band == Band(low=pytest.approx(0.35 - 0.15), high=pytest.approx(0.45 + 0.15), n=21)


def test_each_statistic_has_a_band_of_its_own() -> None:
    bands = bands_of(accepted(sharpness=np.linspace(3, 5, 21)), width=1.0, least_images=20)
    assert bands["sharpness"].low == pytest.approx(2.5)
    assert bands["mean"].low == pytest.approx(0.25)


def test_an_accepted_image_is_never_outside() -> None:
    values = np.r_[np.full(20, 0.4), 0.9, 0.01]
    band = bands_of(accepted(22, mean=values), width=1.0, least_images=20)["mean"]
    assert (band.low, band.high) == (0.01, 0.9)


@pytest.mark.parametrize(
    ("name", "least"), [("mean", 0.01), ("std", 0.005), ("saturated", 0.005), ("sharpness", 0.05 * 0.4)]
)
def test_images_that_are_all_alike_leave_some_room(name: str, least: float) -> None:
    band = bands_of(accepted(20, **{name: np.full(20, 0.4)}), width=2.0, least_images=20)[name]
    assert band.low == pytest.approx(0.4 - 2 * least)
    assert band.high == pytest.approx(0.4 + 2 * least)


def test_too_few_images_make_no_band() -> None:
    assert bands_of(accepted(19), width=3.0, least_images=20) == {}
    assert bands_of(accepted(0), width=3.0, least_images=4) == {}
    assert bands_of(accepted(20), width=3.0, least_images=20)["std"].n == 20
