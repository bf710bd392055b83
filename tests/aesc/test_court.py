"""The court's numbers against plain ones, its rules by table, and how often it errs: simulated."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from aesc.calibration import conformal_threshold
from aesc.court import METRICS, Difference, Judgement, Statement, judge, measure_difference
from aesc.errors import AescError
from aesc.params import Promotion
from aesc.params_file import load_params
from aesc.pixel_metrics import pixel_metrics, split_images

RULES = load_params(Path(__file__).parents[2] / "params.yaml", preset="ablation").promotion
TRIALS = 1000


def drawn_images(n_good: int, *kinds: int) -> tuple[np.ndarray, list[str]]:
    labels = np.array([0] * n_good + [1] * sum(kinds))
    defects = ["good"] * n_good + [f"type {kind}" for kind, count in enumerate(kinds) for _ in range(count)]
    return labels, defects


def statement(scores: Sequence[float] | np.ndarray, threshold: float = 0.0, **more: Any) -> Statement:
    values = np.asarray(scores, dtype=float)
    return Statement(values, values > threshold, **more)


def differences(champion: Statement, challenger: Statement, labels: Any, defects: Any) -> dict[Any, Difference]:
    found = measure_difference(champion, challenger, labels, defects, n=300, confidence=0.95, seed=3)
    return {(one.metric, one.defect): one for one in found}


def table(**changes: tuple[float, float, float, float] | None) -> list[Difference]:
    """All metrics at equal values without an interval to speak of; `changes` are (champion, challenger, low, high)."""
    rows: list[Difference] = []
    for name in (*METRICS, "image_auroc of scratch", "detection_rate of scratch"):
        metric, _, defect = name.partition(" of ")
        equal = 0.05 if metric == "false_alarm_rate" else 0.9
        values = changes.get(name.replace(" ", "_"), (equal, equal, 0.0, 0.0))
        rows.append(Difference(metric, defect or "all", *(values or (None,) * 4), n_good=20, n_defective=30))
    return rows


BETTER = {"image_auroc": (0.9, 0.95, 0.01, 0.08)}


def test_each_metric_is_the_one_of_the_reports() -> None:
    rng = np.random.default_rng(0)
    labels, defects = drawn_images(15, 10, 6)
    maps = [rng.normal(size=(31, 8, 8)).astype(np.float32) for _ in range(2)]
    masks = [np.zeros((8, 8), bool) if not label else rng.random((8, 8)) < 0.3 for label in labels]
    for one in maps:
        one[np.stack(masks)] += 1
    models = [
        statement(np.round(rng.normal(size=31) + labels, 1), 0.5, pixels=split_images(one, masks, labels=labels))
        for one in maps
    ]
    found = differences(*models, labels, defects)
    for model, one, name in zip(models, maps, ("champion", "challenger"), strict=True):
        pixels = pixel_metrics(one, masks, labels=labels)
        expected = {
            ("image_auroc", "all"): roc_auc_score(labels, model.scores),
            ("image_auroc", "type 1"): roc_auc_score(
                labels[[*range(15), *range(25, 31)]], model.scores[[*range(15), *range(25, 31)]]
            ),
            ("pixel_auroc", "all"): pixels.auroc,
            ("aupro", "all"): pixels.aupro,
            ("detection_rate", "type 0"): model.alarms[15:25].mean(),
            ("false_alarm_rate", "all"): model.alarms[:15].mean(),
        }
        assert {key: getattr(found[key], name) for key in expected} == pytest.approx(expected)
    for one in found.values():
        assert one.low <= one.difference <= one.high
    assert {key[1] for key in found} == {"all", "type 0", "type 1"}


def test_the_same_draw_for_both_cancels_what_the_images_have_in_common() -> None:
    rng = np.random.default_rng(1)
    labels, defects = drawn_images(40, 40)
    scores = rng.normal(size=80) + labels
    same = differences(statement(scores), statement(scores), labels, defects)
    for (metric, _), one in same.items():
        assert (one.low, one.high) == ((0.0, 0.0) if metric not in ("pixel_auroc", "aupro") else (None, None))
    # A challenger whose scores are a monotone function of the champion's has the same areas, image by image.
    bent = differences(statement(scores), statement(np.exp(scores)), labels, defects)
    assert (bent["image_auroc", "all"].low, bent["image_auroc", "all"].high) == (0.0, 0.0)


def test_the_interval_is_that_of_resampling_the_images_themselves() -> None:
    rng = np.random.default_rng(2)
    labels, defects = drawn_images(30, 30)
    first, second = (rng.normal(size=60) + gap * labels for gap in (1.0, 1.5))
    drawn = []
    for _ in range(1500):
        rows = np.concatenate([rng.integers(0, 30, 30), rng.integers(30, 60, 30)])
        drawn.append(roc_auc_score(labels[rows], second[rows]) - roc_auc_score(labels[rows], first[rows]))
    (one, *_) = measure_difference(statement(first), statement(second), labels, defects, n=1500, confidence=0.9, seed=0)
    assert (one.low, one.high) == pytest.approx(np.quantile(drawn, [0.05, 0.95]), abs=0.012)


def test_pixel_intervals_bound_the_difference_and_are_seeded() -> None:
    rng = np.random.default_rng(5)
    labels, defects = drawn_images(6, 6)
    masks = [np.zeros((8, 8), bool) if not label else rng.random((8, 8)) < 0.2 for label in labels]
    maps = [rng.normal(size=(12, 8, 8)) + gap * np.stack(masks) for gap in (0.5, 2.0)]
    models = [statement(labels, 0.5, pixels=split_images(one, masks, labels=labels)) for one in maps]
    first, again = (differences(*models, labels, defects) for _ in range(2))
    assert first == again
    assert 0 < first["pixel_auroc", "all"].low < first["pixel_auroc", "all"].high
    assert first["aupro", "all"].low > 0


@pytest.mark.parametrize(
    ("case", "verdict", "reason"),
    [
        ({}, "HOLD", "not shown to be better"),
        (BETTER, "PROMOTE", "better: image AUROC 0.9000 -> 0.9500"),
        ({"image_auroc": (0.9, 0.95, -0.001, 0.1)}, "HOLD", "not shown to be better"),
        ({"image_auroc": (0.9, 0.95, 0.0, 0.1)}, "HOLD", "not shown to be better"),
        ({"image_auroc": (0.95, 0.9, -0.08, -0.03)}, "REJECT", "worse by more than 2 points: image AUROC"),
        ({"image_auroc": (0.95, 0.92, -0.05, -0.01)}, "HOLD", "not shown to be better"),
        (BETTER | {"image_auroc_of_scratch": (0.9, 0.89, -0.021, 0.01)}, "HOLD", "not shown to be within 2 points"),
        (BETTER | {"image_auroc_of_scratch": (0.9, 0.89, -0.019, 0.01)}, "PROMOTE", "better"),
        (BETTER | {"image_auroc_of_scratch": (0.9, 0.8, -0.15, -0.03)}, "REJECT", "image AUROC of scratch"),
        (BETTER | {"aupro": (0.5, 0.5, -0.03, 0.03)}, "HOLD", "AUPRO"),
        (BETTER | {"aupro": None, "pixel_auroc": None}, "PROMOTE", "better"),
        (BETTER | {"false_alarm_rate": (0.0, 0.1, 0.0, 0.3)}, "PROMOTE", "better"),
        (BETTER | {"false_alarm_rate": (0.0, 0.15, 0.0, 0.3)}, "HOLD", "false alarm rate 0.0000 -> 0.1500"),
        (BETTER | {"false_alarm_rate": (0.0, 0.3, 0.15, 0.4)}, "REJECT", "worse by more than 10 points: false alarm"),
        (BETTER | {"false_alarm_rate": (0.9, 0.35, -0.7, -0.4)}, "REJECT", "above the ceiling: false_alarm_rate"),
        (BETTER | {"detection_rate": (0.9, 0.7, -0.3, -0.05)}, "HOLD", "detection rate"),
        ({"image_auroc": (0.4, 0.55, 0.1, 0.2)}, "REJECT", "below the floor: image_auroc is 0.5500"),
    ],
    ids=str,
)
def test_the_rules(case: dict[str, Any], verdict: str, reason: str) -> None:
    judgement = judge(table(**case), RULES, seed=1)
    assert judgement.verdict == verdict
    assert any(reason in one for one in judgement.reasons), judgement.reasons


def test_a_type_may_have_a_margin_of_its_own() -> None:
    rows = table(**BETTER, image_auroc_of_scratch=(0.9, 0.89, -0.04, 0.01))
    assert judge(rows, RULES, seed=1).verdict == "HOLD"
    assert judge(rows, RULES.model_copy(update={"margins": (("scratch", 0.05),)}), seed=1).verdict == "PROMOTE"
    written = Promotion.model_validate(RULES.model_dump(mode="json") | {"margins": [["scratch", 0.05]]})
    assert written.margins == (("scratch", 0.05),)
    assert Promotion.model_validate_json(written.model_dump_json()) == written


def test_a_leak_is_rejected_however_good_the_challenger_is() -> None:
    judgement = judge(table(**BETTER), RULES, seed=1, leaked=3)
    assert (judgement.verdict, judgement.reasons) == (
        "REJECT",
        ("leak: the challenger was made from 3 of the test images",),
    )


def test_what_is_missing_is_an_error() -> None:
    with pytest.raises(AescError, match=r"promotion\.primary: aupro"):
        judge(table(aupro=None), RULES.model_copy(update={"primary": "aupro"}), seed=1)
    with pytest.raises(AescError, match="a limit for aupro"):
        judge(table(aupro=None), RULES.model_copy(update={"least_aupro": 0.1}), seed=1)
    labels, defects = drawn_images(1, 5)
    with pytest.raises(AescError, match="1 clean and 5 defective"):
        differences(statement(np.arange(6)), statement(np.arange(6)), labels, defects)
    labels, defects = drawn_images(3, 3)
    with pytest.raises(AescError, match=r"score 5 is nan"):
        differences(statement(np.arange(6)), statement([0, 1, 2, 3, 4, np.nan]), labels, defects)
    with pytest.raises(AescError):
        differences(statement(np.arange(6)), statement(np.arange(5)), labels, defects)


def simulated(
    rng: np.random.Generator, *, n_good: int, per_type: int, gaps: tuple[float, float], shared: float
) -> Judgement:
    """A trial of normal scores on three defect types, each model with a threshold from 60 calibration images.

    `gaps` are the distances of defective from clean images in standard deviations, of champion and challenger; `shared`
    is the share of the scores' variance that both models have in common.
    """
    labels, defects = drawn_images(n_good, per_type, per_type, per_type)
    common = rng.normal(size=labels.size)
    models = []
    for gap in gaps:
        scores = gap * labels + shared**0.5 * common + (1 - shared) ** 0.5 * rng.normal(size=labels.size)
        promise = conformal_threshold(rng.normal(size=60), alpha=0.05, on_shortage="attain")
        models.append(statement(scores, promise.threshold))
    seed = int(rng.integers(2**31))
    found = measure_difference(*models, labels, defects, n=RULES.bootstrap // 2, confidence=RULES.confidence, seed=seed)
    return judge(found, RULES, seed=seed)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("n_good", "per_type", "gaps", "least", "most"),
    [
        (60, 40, (1.5, 1.5), 0.0, 0.05),
        (60, 40, (2.5, 2.5), 0.0, 0.05),
        (20, 20, (1.5, 1.5), 0.0, 0.05),
        (20, 20, (2.5, 2.5), 0.0, 0.05),
        (60, 40, (1.5, 2.5), 0.9, 1.0),
        (60, 40, (1.5, 3.0), 0.9, 1.0),
        (20, 20, (1.5, 2.5), 0.0, 1.0),  # too few images to be sure: only measured
        (60, 40, (2.5, 1.5), 0.0, 0.0),
        (20, 20, (2.5, 1.5), 0.0, 0.0),
    ],
)
def test_how_often_the_court_errs(
    n_good: int, per_type: int, gaps: tuple[float, float], least: float, most: float
) -> None:
    """The table of docs/results.md: `pytest tests/aesc/test_court.py -m slow -s`."""
    rng = np.random.default_rng(7)
    verdicts = [simulated(rng, n_good=n_good, per_type=per_type, gaps=gaps, shared=0.5).verdict for _ in range(TRIALS)]
    shares = {name: verdicts.count(name) / TRIALS for name in ("PROMOTE", "HOLD", "REJECT")}
    counts = " | ".join(f"{100 * share:.1f} %" for share in shares.values())
    print(f"\n| {n_good} + 3 x {per_type} | {gaps[0]} | {gaps[1]} | {counts} |")
    assert least <= shares["PROMOTE"] <= most
