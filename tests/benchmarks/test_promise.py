"""The promise holds over 1,000 random splits, whatever the scores are like."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import chisquare

from benchmarks import costs
from benchmarks.promise import ALPHAS, draw, main, random_splits
from tests.categories import draw_category

SPLITS = 1000
STANDARD_ERRORS = 4.0


def pool(kind: str, size: int = 300) -> npt.NDArray[np.float64]:
    rng = np.random.default_rng(3)
    return {
        "normal": rng.normal(size=size),
        "heavy tail": rng.standard_cauchy(size),
        "two products": np.concatenate([rng.normal(size=size // 2), rng.normal(50.0, 9.0, size - size // 2)]),
        "ties": rng.integers(0, 6, size).astype(np.float64),
    }[kind]


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("kind", ["normal", "heavy tail", "two products"])
def test_the_rate_and_the_distribution_of_alarms_are_those_of_theory(kind: str, alpha: float) -> None:
    held = random_splits(pool(kind), n=200, alpha=alpha, splits=SPLITS, seed=5)
    assert held.attained <= alpha
    assert abs(held.rate - held.attained) <= STANDARD_ERRORS * held.standard_error
    expected = held.expected() * SPLITS
    enough = expected >= 5.0
    seen = np.append(np.array(held.counts)[enough], np.array(held.counts)[~enough].sum())
    assert chisquare(seen, np.append(expected[enough], expected[~enough].sum())).pvalue > 0.001


@pytest.mark.parametrize("alpha", ALPHAS)
def test_ties_only_make_alarms_rarer(alpha: float) -> None:
    held = random_splits(pool("ties"), n=200, alpha=alpha, splits=SPLITS, seed=5)
    assert held.rate <= held.attained + STANDARD_ERRORS * held.standard_error


def test_few_images_promise_what_they_can(tmp_path: Path) -> None:
    held = random_splits(pool("normal", 30), n=20, alpha=0.01, splits=SPLITS, seed=5)
    assert held.attained == pytest.approx(1 / 21)
    assert abs(held.rate - held.attained) <= STANDARD_ERRORS * held.standard_error
    draw([held, held], tmp_path / "promise.png", caption="made up")
    assert (tmp_path / "promise.png").stat().st_size > 5000


def test_a_trained_detector_keeps_it_on_its_own_clean_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_category(tmp_path / "data", train=180, test_good=60, defects={"spot": 2})
    monkeypatch.setenv("AESC_HOME", str(tmp_path / "state"))
    short = ("data.image_size=64", "training.images_per_epoch=64", "detection.passes=2", "evaluation.bootstrap=0")
    asked = ["--category", "widget", "--data", str(tmp_path / "data"), "--values", "64", "--out", str(tmp_path / "out")]
    costs.main(["images", *asked, *(word for override in short for word in ("--set", override))])
    capsys.readouterr()
    (run,) = (tmp_path / "out" / "runs" / "widget").glob("*/")
    main([str(run), "--out", str(tmp_path / "promise.png"), "--splits", str(SPLITS)])
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["alpha"] for row in found] == list(ALPHAS)
    for row in found:
        assert row["m"] == 60
        assert row["n"] >= 20
        assert row["attained"] <= max(row["alpha"], 1 / (row["n"] + 1))
        assert abs(row["rate"] - row["attained"]) <= STANDARD_ERRORS * row["standard_error"]
    assert (tmp_path / "promise.png").stat().st_size > 5000
