"""The smallest stain that is found: painted as said, fitted without a form, and compared beyond chance."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aesc.detectability import LEAST_IMAGES, Detectability, compare, measure, smallest_size, stained
from aesc.errors import AescError
from aesc.params import Monitoring
from aesc.params_file import load_params
from tests.aesc.test_detector import make_detector

ROOT = Path(__file__).parents[2]
SIDE = 64
PARAMS = load_params(ROOT / "params.yaml", preset="ablation")
SETTINGS = PARAMS.monitoring.model_copy(
    update={"sizes": (1.0, 2.0, 4.0, 8.0), "contrasts": (32.0, 64.0), "reference_contrast": 32.0, "bootstrap": 100}
)
ROUND = PARAMS.corruption.model_copy(update={"irregularity": 0.0})
IRREGULAR = PARAMS.corruption.model_copy(update={"irregularity": 0.3})


class Eye:
    """In the place of a detector: it finds stains of at least so many pixels, whatever their contrast.

    A real detector cannot be told how much it finds.
    """

    def __init__(self, least: float, folder: Path) -> None:
        self.operating_point = make_detector(folder).operating_point
        self._least = least

    def scores(self, images: list[Any]) -> list[float]:
        """Above the threshold by as many pixels as are seen beyond the least."""
        at = self.operating_point.promise.threshold - self._least
        return [at + float((np.abs(image[..., 0].astype(int) - 128) > 8).sum()) for image in images]


def flat(count: int, level: int = 128) -> list[Any]:
    return [np.full((SIDE, SIDE, 3), level, dtype=np.uint8) for _ in range(count)]


def seen(least: float, folder: Path, *, images: int = 24, settings: Monitoring = SETTINGS) -> Detectability:
    eye: Any = Eye(least, folder)
    return measure(eye, flat(images), settings=settings, corruption=ROUND, seed=1, said="flat")


@pytest.mark.parametrize(("level", "contrast"), [(0.5, 32.0), (0.02, 64.0), (0.98, 64.0)])
def test_a_stain_has_the_size_and_the_contrast_that_were_asked_for(level: float, contrast: float) -> None:
    images = torch.full((40, 3, SIDE, SIDE), level)
    images[:, 1] *= 0.9
    before = images.clone()
    stream = torch.Generator().manual_seed(0)
    painted, mask = stained(images, size=6.0, contrast=contrast, corruption=ROUND, generator=stream)
    assert torch.equal(images, before)
    area = mask.sum(dim=(1, 2, 3)).float()
    assert area.mean() == pytest.approx(math.pi * 36, rel=0.05)
    inside = mask.expand_as(images)
    difference = (painted - images)[inside].abs() * 255
    assert difference.min() == pytest.approx(contrast, abs=0.01)
    assert difference.max() == pytest.approx(contrast, abs=0.01)
    assert torch.equal(painted[~inside], images[~inside])
    assert painted.min() >= 0
    assert painted.max() <= 1


def test_the_contrast_is_to_what_surrounds_the_stain_not_to_the_image() -> None:
    ramp = torch.linspace(0.2, 0.8, SIDE).expand(30, 1, SIDE, SIDE)
    painted, mask = stained(
        ramp, size=3.0, contrast=25.5, corruption=IRREGULAR, generator=torch.Generator().manual_seed(1)
    )
    steps = [
        float(image[where].mean() - clean[where].mean())
        for image, clean, where in zip(painted, ramp, mask, strict=True)
    ]
    assert np.abs(steps) == pytest.approx(0.1, abs=0.02)
    assert {step > 0 for step in steps} == {True, False}


@pytest.mark.parametrize(
    ("rates", "size"),
    [
        ([0.0, 0.0, 0.5, 1.0], math.exp(math.log(4) + 0.8 * math.log(2))),
        ([0.0, 0.9, 1.0, 1.0], 2.0),
        ([0.95, 1.0, 1.0, 1.0], 1.0),
        ([0.0, 0.2, 0.5, 0.8], math.inf),
        ([0.0, 1.0, 0.8, 1.0], 2.0),  # pooled: the pair has 0.9 at both
    ],
)
def test_the_smallest_size_is_where_the_isotonic_fit_reaches_the_rate(rates: list[float], size: float) -> None:
    assert smallest_size(rates, (1.0, 2.0, 4.0, 8.0), 0.9) == pytest.approx(size)


def test_measured_is_what_the_detector_finds(tmp_path: Path) -> None:
    found = seen(30, tmp_path)  # a disc of semi-axis 2 has 13 pixels, of 4 has 49
    assert found.rates == ((0.0, 0.0, 1.0, 1.0), (0.0, 0.0, 1.0, 1.0))
    assert found.figure.size == pytest.approx(2 * 2**0.9)
    assert (found.figure.low, found.figure.high) == (found.figure.size, found.figure.size)
    assert "90 % probability from a semi-axis of 3.73 px" in found.headline()["words"]
    assert Detectability.model_validate_json(found.model_dump_json()) == found
    blind = seen(1000, tmp_path)
    assert (blind.figure.size, blind.figure.high, blind.figure.at_most) == (None, None, False)
    said = "stains of 32 grey levels contrast are not found with 90 % probability up to a semi-axis of 8 px"
    assert said in blind.headline()["words"]
    sharp = seen(1, tmp_path)
    assert (sharp.figure.size, sharp.figure.at_most) == (1.0, True)


def test_a_real_detector_finds_more_of_large_strong_stains(tmp_path: Path) -> None:
    detector = make_detector(tmp_path, "detection.image_score=top", "detection.strategy=residual")
    settings = SETTINGS.model_copy(update={"images": 8, "sizes": (1.0, 16.0), "contrasts": (16.0, 64.0, 120.0)})
    images = flat(8)
    score = max(found.score for found in detector.predict_batch(images))
    promise = detector.operating_point.promise.model_copy(update={"threshold": score * 1.1})
    point = detector.operating_point.model_copy(
        update={"image_promises": {**detector.operating_point.image_promises, "residual": promise}}
    )
    sized = type(detector)(detector._network, point)
    settings = settings.model_copy(update={"reference_contrast": 64.0})
    found = measure(sized, images, settings=settings, corruption=IRREGULAR, seed=1, said="flat")
    again = measure(sized, images, settings=settings, corruption=IRREGULAR, seed=1, said="flat")
    assert found == again
    rates = np.array(found.rates)
    assert rates[2, 1] >= rates[0, 0]
    assert rates[2, 1] > 0


def test_too_few_images_are_said(tmp_path: Path) -> None:
    with pytest.raises(AescError, match=f"{LEAST_IMAGES - 1} clean images"):
        seen(30, tmp_path, images=LEAST_IMAGES - 1)


def test_a_loss_is_beyond_tolerance_and_beyond_chance(tmp_path: Path) -> None:
    before, now = seen(30, tmp_path), seen(100, tmp_path)
    loss = compare(before, now, tolerance=0.25, level=0.001, bootstrap=100)
    assert loss.lost
    assert loss.ratio == pytest.approx(2.0)
    assert not compare(before, now, tolerance=1.5, level=0.001, bootstrap=100).lost
    assert not compare(before, before, tolerance=0.0, level=0.001, bootstrap=100).lost
    assert not compare(now, before, tolerance=0.25, level=0.001, bootstrap=100).lost
    blind = compare(before, seen(1000, tmp_path), tolerance=0.25, level=0.001, bootstrap=100)
    assert blind.lost
    assert blind.now is None
    assert "more than 8 px now" in blind.words


def test_an_uncertain_loss_is_none(tmp_path: Path) -> None:
    """A difference that one image more or less would make is not beyond chance, however large it looks."""
    settings = SETTINGS.model_copy(update={"images": 8})
    before = seen(30, tmp_path, images=8, settings=settings)
    row = [list(cell) for cell in before.found[0]]
    row[2] = [True] * 7 + [False]
    now = before.model_copy(update={"found": (tuple(map(tuple, row)), before.found[1])})
    loss = compare(before, now, tolerance=0.01, level=0.001, bootstrap=200)
    assert loss.ratio > 1.01
    assert loss.low < 1.0
    assert not loss.lost


def test_unlike_measurements_are_not_compared(tmp_path: Path) -> None:
    other = seen(30, tmp_path, settings=SETTINGS.model_copy(update={"sizes": (1.0, 2.0, 4.0, 9.0)}))
    with pytest.raises(AescError, match="sizes"):
        compare(seen(30, tmp_path), other, tolerance=0.25, level=0.01, bootstrap=100)


@pytest.mark.parametrize(
    "changes",
    [
        {"sizes": [4.0, 2.0]},
        {"sizes": [2.0, 2.0]},
        {"reference_contrast": 33.0},
        {"least_images": 900},
        {"images": 4},
    ],
)
def test_contradictory_parameters_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"allowed|greater"):
        Monitoring.model_validate(SETTINGS.model_dump() | changes)


def test_the_largest_stain_must_fit_into_the_image() -> None:
    with pytest.raises(AescError, match=r"monitoring\.sizes"):
        load_params(
            ROOT / "params.yaml",
            preset="ablation",
            overrides=["data.image_size=64", "monitoring.sizes=[2, 30]", "corruption.size=[0.01, 0.1]"],
        )
