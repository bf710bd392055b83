"""Verdicts on replays, and what is said to differ."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from tasks.replay_verdict import (
    DIVERGED,
    IDENTICAL,
    WITHIN_TOLERANCE,
    data_differences,
    device_differences,
    first_difference,
    judge_prefix,
    judge_whole,
    package_differences,
    parameter_differences,
)

TRACE = np.array([0.3, 0.2, 0.15, 0.1], np.float32)
METRICS = {"image_auroc": 0.9, "aupro": None}


def changed(step: int, by: float) -> npt.NDArray[np.float32]:
    losses = TRACE.copy()
    losses[step] *= np.float32(1 + by)
    return losses


def test_the_first_difference_is_that_of_bits() -> None:
    assert first_difference(TRACE, TRACE.copy()) is None
    last_bit = TRACE.copy()
    last_bit[2] = np.nextafter(TRACE[2], np.float32(1))
    assert first_difference(TRACE, last_bit) == 2
    assert first_difference(TRACE, TRACE[:3]) == first_difference(TRACE[:3], TRACE) == 3
    assert first_difference(np.array([0.0], np.float32), np.array([-0.0], np.float32)) == 0
    assert first_difference(TRACE[:0], TRACE[:0]) is None


def test_a_prefix_is_judged_by_its_losses() -> None:
    assert judge_prefix(TRACE, TRACE.copy(), tolerance=0.0)[0] == IDENTICAL
    verdict, report = judge_prefix(TRACE, changed(1, 1e-5), tolerance=1e-4)
    assert (verdict, report["step"], report["steps_compared"]) == (WITHIN_TOLERANCE, 1, 4)
    verdict, report = judge_prefix(TRACE, changed(3, 0.01), tolerance=1e-4)
    assert (verdict, report["step"]) == (DIVERGED, 3)
    assert report["loss"] == {"recorded": float(TRACE[3]), "found": float(changed(3, 0.01)[3])}
    verdict, report = judge_prefix(TRACE, TRACE[:2], tolerance=1.0)
    assert (verdict, report["step"], report["loss"]["found"]) == (DIVERGED, 2, None)


def test_a_whole_training_is_judged_by_weights_then_by_metrics() -> None:
    def judged(weights: str, auroc: float | None, losses: npt.NDArray[np.float32] | None = TRACE) -> tuple[str, int]:
        verdict, report = judge_whole(
            weights=("aa", weights),
            losses=(TRACE, losses),
            metrics=(METRICS, {**METRICS, "image_auroc": auroc}),
            tolerance=0.01,
        )
        return verdict, report["step"]

    assert judged("aa", 0.9) == (IDENTICAL, None)
    assert judged("bb", 0.905, changed(2, 0.1)) == (WITHIN_TOLERANCE, 2)
    assert judged("bb", 0.92, changed(2, 0.1)) == (DIVERGED, 2)
    assert judged("bb", None) == (DIVERGED, None), "a metric that became not available is no small difference"
    assert judged("bb", 0.9, None) == (WITHIN_TOLERANCE, None)


def test_metrics_of_an_identical_training_are_reported_all_the_same() -> None:
    _, report = judge_whole(
        weights=("aa", "aa"), losses=(None, None), metrics=(METRICS, {**METRICS, "image_auroc": 0.8}), tolerance=0.01
    )
    assert report["metrics"][0]["difference"] == pytest.approx(0.1)
    assert report["steps_compared"] == 0


def test_packages_and_devices_are_named() -> None:
    recorded = {"torch": "2.12.0", "numpy": "2.4.6", "gone": "1"}
    found = package_differences(recorded, {"torch": "2.13.0", "numpy": "2.4.6", "new": "1"})
    assert [str(item) for item in found] == [
        "package gone: 1 recorded, not installed here",
        "package torch: 2.12.0 recorded, 2.13.0 here",
    ]
    (device,) = device_differences({"device": "cuda", "threads": "2"}, {"device": "cpu", "threads": 2})
    assert str(device) == "device device: cuda recorded, cpu here"


def test_parameters_that_contradict_what_was_logged_are_named() -> None:
    used = {"training.seed": 1, "network.dropout": [0.0, 0.1]}
    logged = {"training.seed": "1", "network.dropout": "[0.0, 0.1]"}
    assert parameter_differences(used, logged, seed="1") == []
    (seed,) = parameter_differences({**used, "training.seed": 2}, logged, seed="1")
    assert str(seed) == "parameter training.seed: 1 recorded, 2 here"
    assert [item.name for item in parameter_differences(used, logged, seed="3")] == ["training.seed"]


def test_files_are_named_and_many_are_counted() -> None:
    recorded = {f"a/{number}.png": "0" * 64 for number in range(9)}
    assert data_differences(recorded, dict(recorded)) == []
    (one,) = data_differences(recorded, {**recorded, "a/new.png": "1" * 64})
    assert str(one) == "data a/new.png: absent recorded, 111111111111 here"
    many = data_differences(recorded, {})
    assert len(many) == 6
    assert many[-1].name == "4 more files"
