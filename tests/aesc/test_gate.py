"""The contamination gate: residual and uncertainty, each against its own threshold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from aesc.detector import Detector, Prediction, verdict
from aesc.gate import Alarm, alarms, most_held_clean
from aesc.images import Image
from aesc.network import network_for
from aesc.operating_point import calibrate
from aesc.params import STRATEGIES, Strategy
from aesc.params_file import load_params
from aesc.scoring import Scales
from aesc.weights import save_network

SIDE = 64
THRESHOLDS = {"residual": 40.0, "uncertainty": 0.5, "combined": 7.0}
BELOW = {name: 0.9 * value for name, value in THRESHOLDS.items()}


def make_detector(folder: Path, *, strategy: str = "residual", n: int = 19) -> Detector:
    """A real network whose thresholds are those of `THRESHOLDS`: the largest of `n` calibration scores."""
    overrides = [f"data.image_size={SIDE}", "detection.passes=2", f"detection.strategy={strategy}"]
    params = load_params(Path(__file__).parents[2] / "params.yaml", preset="ablation", overrides=overrides)
    random = torch.Generator().manual_seed(0)
    network = network_for(params, channels=3, generator=random).eval()
    kinds = (params.detection.image_score, "peak")
    rows = [
        {f"{name}_{kind}": value * rank / n for name, value in THRESHOLDS.items() for kind in kinds}
        for rank in range(1, n + 1)
    ]
    point = calibrate(
        pd.DataFrame(rows).assign(split="calibration", corruption=""),
        params=params,
        category="widget",
        data_version="abc",
        weights_sha256=save_network(network, folder / "network").weights_sha256,
        channels=3,
        scales=Scales(residual=0.1, uncertainty=0.001),
    )
    return Detector(network, point)


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Detector:
    return make_detector(tmp_path_factory.mktemp("detector"))


@pytest.fixture(scope="module")
def prediction(detector: Detector) -> Prediction:
    pixels = np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8)
    return detector.predict(Image(pixels=pixels, mode="rgb", bit_depth=8, width=90, height=90))


def scored(prediction: Prediction, **scores: float) -> Prediction:
    return replace(prediction, scores={**BELOW, **scores})


def test_the_real_prediction_is_compared_with_the_real_thresholds(detector: Detector, prediction: Prediction) -> None:
    point = detector.operating_point
    assert {name: point.image_promises[name].threshold for name in STRATEGIES} == pytest.approx(THRESHOLDS)
    wanted = {name for name in ("residual", "uncertainty") if prediction.scores[name] > THRESHOLDS[name]}
    assert {alarm.strategy for alarm in alarms(prediction, point)} == wanted


@pytest.mark.parametrize("raised", [(), ("residual",), ("uncertainty",), ("residual", "uncertainty")])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_both_are_asked_whatever_the_verdict_goes_by(
    tmp_path: Path, prediction: Prediction, strategy: Strategy, raised: tuple[Strategy, ...]
) -> None:
    point = make_detector(tmp_path, strategy=strategy).operating_point
    assert point.strategy == strategy
    scores: Mapping[str, float] = {name: 2 * THRESHOLDS[name] for name in raised}
    found = alarms(scored(prediction, **scores), point)
    assert [alarm.strategy for alarm in found] == list(raised)
    for alarm in found:
        assert alarm.score == scores[alarm.strategy]
        assert alarm.threshold == pytest.approx(THRESHOLDS[alarm.strategy])


def test_the_combined_score_alone_raises_none(detector: Detector, prediction: Prediction) -> None:
    assert alarms(scored(prediction, combined=1e9), detector.operating_point) == ()


@pytest.mark.parametrize("name", ["residual", "uncertainty"])
def test_the_threshold_itself_is_no_alarm(detector: Detector, prediction: Prediction, name: Strategy) -> None:
    threshold = detector.operating_point.image_promises[name].threshold
    assert alarms(scored(prediction, **{name: threshold}), detector.operating_point) == ()
    above = math.nextafter(threshold, math.inf)
    assert len(alarms(scored(prediction, **{name: above}), detector.operating_point)) == 1


@pytest.mark.parametrize("name", ["residual", "uncertainty"])
@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_a_score_that_is_no_number_is_an_alarm(
    detector: Detector, prediction: Prediction, name: Strategy, score: float
) -> None:
    (alarm,) = alarms(scored(prediction, **{name: score}), detector.operating_point)
    assert alarm.strategy == name


def test_an_alarm_says_its_numbers() -> None:
    assert str(Alarm("uncertainty", 0.123456, 0.1)) == "uncertainty 0.1235 above its threshold 0.1"


def test_what_the_gate_costs_is_the_sum_of_both_promises(detector: Detector, tmp_path: Path) -> None:
    assert most_held_clean(detector.operating_point) == pytest.approx(2 / 20)
    assert most_held_clean(make_detector(tmp_path, n=1).operating_point) == 1.0


def test_an_image_on_which_the_verdict_abstains_is_held_back(detector: Detector, prediction: Prediction) -> None:
    """Abstaining needs exactly one of the two above its threshold, and one alarm is enough for the gate."""
    point = detector.operating_point
    inside = 0.99 * THRESHOLDS["residual"]
    assert point.abstention.near(inside)
    scores: dict[Strategy, float] = {**BELOW, "residual": inside, "uncertainty": 2 * THRESHOLDS["uncertainty"]}
    assert verdict(scores, point) == "abstain"
    assert [alarm.strategy for alarm in alarms(scored(prediction, **scores), point)] == ["uncertainty"]
