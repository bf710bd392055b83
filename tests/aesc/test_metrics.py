from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from aesc.bootstrap import bootstrap_image_metrics
from aesc.errors import AescError
from aesc.metrics import METRIC_VERSION, image_metrics, metrics_table, roc_curve_points
from aesc.params import Evaluation
from aesc.pixel_metrics import pixel_metrics


def scored(seed: int, *, good: int, defective: int, gap: float = 1.0) -> tuple[NDArray[Any], NDArray[Any]]:
    rng = np.random.Generator(np.random.PCG64(seed))
    labels = np.repeat([0, 1], [good, defective])
    return np.round(rng.normal(size=labels.size) + gap * labels, 1), labels  # rounded: ties


def evaluation(*, bootstrap: int) -> Evaluation:
    return Evaluation(aupro_limit=0.3, bootstrap=bootstrap, confidence=0.9)


@pytest.mark.parametrize("seed", range(5))
def test_image_metrics_agree_with_their_definitions(seed: int) -> None:
    scores, labels = scored(seed, good=20, defective=30)
    found = image_metrics(scores, labels)
    assert found.auroc == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert found.average_precision == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    assert found.f1_max == pytest.approx(max(f1_score(labels, scores >= t) for t in scores), abs=1e-12)
    assert (found.n, found.n_good, found.n_defective) == (50, 20, 30)


def test_auroc_by_hand_with_a_tie() -> None:
    found = image_metrics([1.0, 2.0, 2.0, 3.0], [False, False, True, True])
    assert found.auroc == pytest.approx(3.5 / 4)
    assert found.f1_max == pytest.approx(0.8)


@pytest.mark.parametrize("label", [0, 1])
def test_a_missing_class_is_not_available(label: int) -> None:
    found = image_metrics([0.1, 0.2], [label, label])
    assert (found.auroc, found.average_precision, found.f1_max) == (None, None, None)
    assert found.n == 2
    assert roc_curve_points([0.1, 0.2], [label, label]) is None
    assert image_metrics([], []).auroc is None


def test_bad_scores_and_labels_are_named() -> None:
    with pytest.raises(AescError, match="score 1 is nan"):
        image_metrics([0.0, np.nan], [0, 1])
    with pytest.raises(AescError, match="shape"):
        image_metrics([0.0, 1.0], [0, 1, 1])
    with pytest.raises(AescError, match="image labels"):
        image_metrics([0.0, 1.0], [0, 2])


def test_roc_curve_has_the_area_of_auroc_and_is_thinned() -> None:
    rng = np.random.Generator(np.random.PCG64(0))
    labels = np.arange(20_000) % 2
    scores = rng.normal(size=labels.size) + labels
    curve = roc_curve_points(scores, labels)
    assert curve is not None
    false, true = curve
    assert false.size <= 2000
    assert (false[0], true[0], false[-1], true[-1]) == (0.0, 0.0, 1.0, 1.0)
    assert np.trapezoid(true, false) == pytest.approx(image_metrics(scores, labels).auroc, abs=1e-3)


def test_image_intervals_cover_the_true_auroc_about_as_often_as_they_say() -> None:
    # Two unit normals 1 apart: the true AUROC is Phi(1 / sqrt 2) = 0.7602.
    rng = np.random.Generator(np.random.PCG64(5))
    labels = np.repeat([0, 1], [40, 40])
    covered = 0
    for seed in range(150):
        scores = rng.normal(size=labels.size) + labels
        low, high = bootstrap_image_metrics(scores, labels, n=200, confidence=0.9, seed=seed).bounds["auroc"]
        covered += low <= 0.7602 <= high
    assert 0.80 <= covered / 150 <= 0.97


def test_image_intervals_agree_with_resampling_by_hand() -> None:
    scores, labels = scored(3, good=12, defective=18)
    found = bootstrap_image_metrics(scores, labels, n=2000, confidence=0.9, seed=0)
    rng = np.random.Generator(np.random.PCG64(99))
    drawn = []
    for _ in range(150):
        pick = np.concatenate([rng.integers(0, 12, 12), rng.integers(12, 30, 18)])
        one = image_metrics(scores[pick], labels[pick])
        drawn.append([one.auroc, one.average_precision, one.f1_max])
    for name, values in zip(("auroc", "average_precision", "f1_max"), np.array(drawn).T, strict=True):
        assert found.bounds[name] == pytest.approx(tuple(np.quantile(values, [0.05, 0.95])), abs=0.04)


def test_image_intervals_repeat_with_the_seed_and_are_absent_where_they_mean_nothing() -> None:
    scores, labels = scored(4, good=10, defective=10)
    first = bootstrap_image_metrics(scores, labels, n=200, confidence=0.95, seed=1)
    assert bootstrap_image_metrics(scores, labels, n=200, confidence=0.95, seed=1) == first
    assert bootstrap_image_metrics(scores, labels, n=200, confidence=0.95, seed=2).bounds != first.bounds
    assert bootstrap_image_metrics(scores, labels, n=0, confidence=0.95, seed=1).bounds == {}
    assert bootstrap_image_metrics(scores[9:], labels[9:], n=200, confidence=0.95, seed=1).bounds == {}
    assert bootstrap_image_metrics([], [], n=200, confidence=0.95, seed=1).bounds == {}


def table_case() -> tuple[NDArray[Any], NDArray[Any], list[str], NDArray[Any], list[NDArray[Any] | None]]:
    """4 clean images, 3 with a crack, 3 with a hole, 2 with a stain that nobody drew a mask for."""
    rng = np.random.Generator(np.random.PCG64(7))
    defects = ["good"] * 4 + ["crack"] * 3 + ["hole"] * 3 + ["stain"] * 2
    labels = np.array([defect != "good" for defect in defects], dtype=int)
    maps = rng.normal(size=(12, 16, 16)).astype(np.float32)
    masks: list[NDArray[Any] | None] = [None] * 12
    for index in range(4, 10):
        mask = np.zeros((16, 16), dtype=bool)
        mask[index - 4 : index, 3:6] = True
        maps[index][mask] += 1.0 if defects[index] == "crack" else 2.0
        masks[index] = mask
    return rng.normal(size=12) + labels, labels, defects, maps, masks


def test_table_has_each_type_against_all_clean_images() -> None:
    scores, labels, defects, maps, masks = table_case()
    rows = metrics_table(scores, labels, defects, maps, masks, params=evaluation(bootstrap=50), seed=1)
    assert [row["defect"] for row in rows] == ["all", "crack", "hole", "stain"]
    assert [(row["n_good"], row["n_defective"], row["n_masked"]) for row in rows] == [
        (4, 8, 6),
        (4, 3, 3),
        (4, 3, 3),
        (4, 2, 0),
    ]
    for row in rows:
        own = [i for i, d in enumerate(defects) if row["defect"] in ("all", d) or d == "good"]
        image = image_metrics(scores[own], labels[own])
        pixel = pixel_metrics(maps[own], [masks[i] for i in own], labels=labels[own])
        assert row["image_auroc"] == image.auroc
        assert row["image_average_precision"] == image.average_precision
        assert row["image_f1_max"] == image.f1_max
        assert row["pixel_auroc"] == pixel.auroc
        assert row["pixel_average_precision"] == pixel.average_precision
        assert row["aupro"] == pixel.aupro
        assert row["image_auroc_low"] <= row["image_auroc"] <= row["image_auroc_high"]
        if row["defect"] == "stain":
            assert (row["aupro"], row["aupro_low"], row["pixel_auroc"]) == (None, None, None)
        else:
            assert row["aupro_low"] < row["aupro"] < row["aupro_high"]


def test_table_without_resamples_masks_maps_or_defects() -> None:
    scores, labels, defects, maps, masks = table_case()
    params = evaluation(bootstrap=0)
    rows = metrics_table(scores, labels, defects, maps, masks, params=params, seed=1)
    assert all(row[key] is None for row in rows for key in row if key.endswith(("_low", "_high")))
    assert rows[0]["aupro"] is not None
    for row in metrics_table(scores, labels, defects, None, None, params=params, seed=1):
        assert row["aupro"] is None
        assert row["image_auroc"] is not None
    assert metrics_table(scores, labels, defects, maps, None, params=params, seed=1)[0]["n_masked"] == 0
    (only,) = metrics_table(scores[:4], labels[:4], defects[:4], maps[:4], None, params=params, seed=1)
    assert (only["defect"], only["n_good"], only["n_defective"], only["image_auroc"]) == ("all", 4, 0, None)
    with pytest.raises(AescError, match="defect types"):
        metrics_table(scores, labels, defects[:3], maps, masks, params=params, seed=1)


def test_table_holds_plain_python_values_only() -> None:
    scores, labels, defects, maps, masks = table_case()
    for row in metrics_table(scores, labels, defects, maps, masks, params=evaluation(bootstrap=20), seed=1):
        assert {type(value) for value in row.values()} <= {str, int, float, type(None)}


def test_metric_version_is_the_one_these_tests_describe() -> None:
    assert METRIC_VERSION == "1"
