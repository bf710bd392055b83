"""Weights and operating point as one thing: save, load, predict."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from aesc import upsampling
from aesc.detector import Detector, verdict
from aesc.errors import AescError
from aesc.images import Image
from aesc.network import network_for
from aesc.operating_point import OperatingPoint, calibrate
from aesc.params import IMAGE_SCORES, STRATEGIES, Params, Strategy
from aesc.params_file import load_params
from aesc.scoring import Scales
from aesc.weights import save_network

ROOT = Path(__file__).parents[2]
SIDE = 64


def make_params(*overrides: str) -> Params:
    return load_params(
        ROOT / "params.yaml",
        preset="ablation",
        overrides=[f"data.image_size={SIDE}", "detection.passes=3", *overrides],
    )


def make_scores(n: int, separation: dict[str, float], seed: int = 0) -> pd.DataFrame:
    """Calibration rows: clean scores uniform in [0, 1], corrupted ones moved up by `separation[strategy]`."""
    rng = np.random.default_rng(seed)
    rows = []
    for corruption in ("", "scratch", "drops"):
        for number in range(n):
            row: dict[str, object] = {"split": "calibration", "corruption": corruption, "path": f"{number}.png"}
            for name in STRATEGIES:
                value = rng.uniform() + (separation[name] if corruption else 0.0)
                row |= {f"{name}_{kind}": value for kind in (*IMAGE_SCORES, "peak")}
            rows.append(row)
    return pd.DataFrame(rows)


def make_detector(folder: Path, *overrides: str, channels: int = 3) -> Detector:
    params = make_params(*overrides)
    network = network_for(params, channels=channels, generator=torch.Generator().manual_seed(0)).eval()
    point = calibrate(
        make_scores(40, dict.fromkeys(STRATEGIES, 0.5)),
        params=params,
        category="widget",
        data_version="abc",
        weights_sha256=save_network(network, folder / "network").weights_sha256,
        channels=channels,
        scales=Scales(residual=0.1, uncertainty=0.001),
    )
    return Detector(network, point)


def picture(seed: int = 0, side: int = 90) -> Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image(pixels=pixels, mode="rgb", bit_depth=8, width=side, height=side)


def test_threshold_is_the_conformal_rank_of_the_calibration_scores() -> None:
    scores = make_scores(40, dict.fromkeys(STRATEGIES, 0.5))
    params = make_params("calibration.false_alarm_rate=0.1")
    point = calibrate(
        scores,
        params=params,
        category="widget",
        data_version="abc",
        weights_sha256="0" * 64,
        channels=3,
        scales=Scales(residual=1.0, uncertainty=1.0),
    )
    clean = scores[scores["corruption"] == ""]
    for name in STRATEGIES:
        # k = ceil(41 * 0.9) = 37
        assert point.image_promises[name].threshold == sorted(clean[f"{name}_top"])[36]
        assert point.pixel_promises[name].threshold == sorted(clean[f"{name}_peak"])[36]


@pytest.mark.parametrize(
    ("separation", "expected"),
    [
        ({"residual": 0.2, "uncertainty": 2.0, "combined": 0.3}, "uncertainty"),
        ({"residual": 2.0, "uncertainty": 2.0, "combined": 2.0}, "residual"),
        ({"residual": 0.0, "uncertainty": 0.1, "combined": 2.0}, "combined"),
        # 0.04 behind the best, by less than the standard error of 0.07
        ({"residual": 0.4, "uncertainty": 0.45, "combined": 0.3}, "residual"),
    ],
)
def test_strategy_that_separates_corrupted_images_is_chosen(separation: dict[str, float], expected: str) -> None:
    point = calibrate(
        make_scores(30, separation),
        params=make_params(),
        category="widget",
        data_version="abc",
        weights_sha256="0" * 64,
        channels=3,
        scales=Scales(residual=1.0, uncertainty=1.0),
    )
    assert point.strategy == expected
    assert point.choice is not None
    assert set(point.choice.evidence["residual"]) == {"scratch", "drops"}


def test_without_dropout_only_the_residual_is_chosen() -> None:
    point = calibrate(
        make_scores(30, {"residual": 0.0, "uncertainty": 2.0, "combined": 2.0}),
        params=make_params("network.dropout=[0]"),
        category="widget",
        data_version="abc",
        weights_sha256="0" * 64,
        channels=3,
        scales=Scales(residual=1.0, uncertainty=1.0),
    )
    assert point.strategy == "residual"


def test_shortage_stops_where_params_say_so() -> None:
    with pytest.raises(AescError, match="5 calibration images cannot support"):
        calibrate(
            make_scores(5, dict.fromkeys(STRATEGIES, 1.0)),
            params=make_params("calibration.on_shortage=stop"),
            category="widget",
            data_version="abc",
            weights_sha256="0" * 64,
            channels=3,
            scales=Scales(residual=1.0, uncertainty=1.0),
        )


@pytest.mark.parametrize("channels", [1, 3])
def test_loaded_detector_predicts_what_the_saved_one_did(tmp_path: Path, channels: int) -> None:
    detector = make_detector(tmp_path, channels=channels)
    before = detector.predict(picture())
    detector.save(tmp_path / "detector")
    after = Detector.load(tmp_path / "detector", device="cpu").predict(picture())
    assert after.score == before.score
    assert after.scores == before.scores
    np.testing.assert_array_equal(after.maps["uncertainty"], before.maps["uncertainty"])
    assert after.image.shape == (SIDE, SIDE, channels)
    assert after.mask.shape == after.anomaly_map.shape == (SIDE, SIDE)


def test_a_loaded_detector_makes_its_kernels_phases_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_detector(tmp_path).save(tmp_path / "detector")
    loaded = Detector.load(tmp_path / "detector", device="cpu")
    monkeypatch.delattr(upsampling, "phase_kernels")
    loaded.predict(picture(), strategy="residual", lazy=True)


def test_prediction_does_not_depend_on_the_other_images_of_the_batch(tmp_path: Path) -> None:
    detector = make_detector(tmp_path, "detection.residual=all")
    images = [detector.preprocess(picture(seed)) for seed in range(5)]
    together = detector.predict_batch(images)
    for image, found in zip(images, together, strict=True):
        alone = detector.predict_batch([image])[0]
        for name in STRATEGIES:
            assert alone.scores[name] == pytest.approx(found.scores[name], rel=1e-4)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_scores_alone_are_those_of_the_predictions(
    tmp_path: Path, strategy: Strategy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More images than go through at once; by the residual no stochastic pass is run."""
    detector = make_detector(tmp_path, f"detection.strategy={strategy}")
    drawn = np.random.default_rng(1).integers(0, 256, (19, 64, 64, 3)).astype(np.uint8)
    expected = [found.score for found in detector.predict_batch(list(drawn))]
    if strategy == "residual":
        monkeypatch.setattr("aesc.scoring.mc_dropout_variance", lambda *_, **__: pytest.fail("a pass was run"))
    assert detector.scores(list(drawn)) == expected


def test_another_strategy_brings_its_own_threshold(tmp_path: Path) -> None:
    detector = make_detector(tmp_path)
    found = detector.predict(picture(), strategy="uncertainty")
    assert found.strategy == "uncertainty"
    assert found.score == found.scores["uncertainty"]
    assert found.threshold == detector.operating_point.image_promises["uncertainty"].threshold
    np.testing.assert_array_equal(found.anomaly_map, found.maps["uncertainty"])


def test_verdict_is_strict(tmp_path: Path) -> None:
    point = make_detector(tmp_path, "calibration.abstention_rate=0").operating_point
    threshold = point.promise.threshold
    scores = dict.fromkeys(STRATEGIES, threshold)
    assert verdict(scores, point) == "pass"
    assert verdict({**scores, point.strategy: np.nextafter(threshold, 2.0)}, point) == "reject"
    assert verdict({**scores, point.strategy: np.nan}, point) == "reject"


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_it_abstains_only_in_the_band_and_only_where_the_two_maps_disagree(tmp_path: Path, strategy: Strategy) -> None:
    point = make_detector(tmp_path, f"detection.strategy={strategy}", "calibration.abstention_rate=0.2").operating_point
    band = point.abstention
    assert band.low is not None
    assert band.high is not None
    assert band.low < point.promise.threshold < band.high
    thresholds = {name: promise.threshold for name, promise in point.image_promises.items()}
    inside = [np.nextafter(band.low, 9), thresholds[strategy], np.nextafter(thresholds[strategy], 9)]
    for score in [0.0, band.low, *inside, band.high, 9.0, np.nan]:
        usual = "pass" if score <= thresholds[strategy] else "reject"
        for others in np.ndindex(2, 2, 2):
            scores: dict[Strategy, float] = {
                name: thresholds[name] + (1.0 if above else -1.0)
                for name, above in zip(STRATEGIES, others, strict=True)
            }
            scores[strategy] = score
            above = [not scores[name] <= thresholds[name] for name in ("residual", "uncertainty")]
            expected = "abstain" if score in inside and above[0] != above[1] else usual
            assert verdict(scores, point) == expected


def test_without_dropout_nothing_abstains(tmp_path: Path) -> None:
    point = make_detector(tmp_path, "network.dropout=[0]").operating_point
    assert "no dropout" in point.abstention.message
    scores: dict[Strategy, float] = {"residual": 2.0, "uncertainty": 0.0, "combined": 0.0}
    assert verdict(scores, point) == "reject"


def test_exchanged_weights_are_refused(tmp_path: Path) -> None:
    make_detector(tmp_path).save(tmp_path / "detector")
    weights = tmp_path / "detector" / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(AescError, match="sha256"):
        Detector.load(tmp_path / "detector", device="cpu")


def test_operating_point_of_other_weights_is_refused(tmp_path: Path) -> None:
    make_detector(tmp_path).save(tmp_path / "detector")
    file = tmp_path / "detector" / "operating_point.json"
    content = json.loads(file.read_text())
    content["weights_sha256"] = "f" * 64
    file.write_text(json.dumps(content))
    with pytest.raises(AescError, match="calibrated for weights"):
        Detector.load(tmp_path / "detector", device="cpu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "format 99"),
        ({"format": 1}, "format 1\n  allowed: format 4"),
        ({"strategy": "guess"}, "strategy"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_damaged_operating_point_says_what_is_wrong(tmp_path: Path, change: dict[str, object], message: str) -> None:
    make_detector(tmp_path).save(tmp_path / "detector")
    file = tmp_path / "detector" / "operating_point.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(AescError, match=message):
        OperatingPoint.load(tmp_path / "detector")


def test_missing_files_are_named(tmp_path: Path) -> None:
    make_detector(tmp_path).save(tmp_path / "detector")
    (tmp_path / "detector" / "weights.safetensors").unlink()
    with pytest.raises(AescError, match=r"weights\.safetensors"):
        Detector.load(tmp_path / "detector", device="cpu")
    (tmp_path / "detector" / "operating_point.json").unlink()
    with pytest.raises(AescError, match=r"operating_point\.json"):
        Detector.load(tmp_path / "detector", device="cpu")
