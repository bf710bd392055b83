"""What is scored, and what the report says of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image as Pillow

from aesc.cache import ImageCache
from aesc.evaluation import SYNTHETIC, TestMaps, evaluate, held_out_kinds, plan_jobs
from aesc.manifest import scan_category
from aesc.network import network_for
from aesc.operating_point import calibrate
from aesc.params import STRATEGIES, Params
from aesc.params_file import load_params
from aesc.report import measure, score_table
from aesc.report_figures import draw_report
from aesc.scoring import Scales, Scorer

ROOT = Path(__file__).parents[2]
SIDE = 64


def make_params(*overrides: str) -> Params:
    small = [f"data.image_size={SIDE}", "detection.passes=2", "evaluation.bootstrap=20"]
    return load_params(ROOT / "params.yaml", preset="ablation", overrides=[*small, *overrides])


def run(root: Path, folder: Path, params: Params) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Manifest and scores of the category `widget` by an untrained network."""
    manifest = scan_category(root, "widget", data=params.data, cache_folder=folder / "cache")
    cache = ImageCache(folder / "cache", size=SIDE, channels=3)
    cache.add(
        [(sha, root / path) for sha, path in zip(manifest["sha256"], manifest["path"], strict=True)],
        max_megapixels=params.data.max_megapixels,
    )
    network = network_for(params, channels=3, generator=torch.Generator().manual_seed(0)).eval()
    scorer = Scorer(network, detection=params.detection, seed=1, scales=Scales(residual=1.0, uncertainty=0.001))
    scores = evaluate(
        scorer,
        manifest,
        cache.array(),
        cache.rows(manifest["sha256"].tolist()),
        data_root=root,
        folder=folder / "evaluation",
        params=params,
        device=torch.device("cpu"),
    )
    return manifest, scores


def operating_point(scores: pd.DataFrame, params: Params):
    return calibrate(
        scores,
        params=params,
        category="widget",
        data_version="abc",
        weights_sha256="0" * 64,
        channels=3,
        scales=Scales(residual=1.0, uncertainty=0.001),
    )


def test_held_out_kinds_leave_out_the_trained_one() -> None:
    assert held_out_kinds(make_params()) == ["scratch", "drops"]
    assert held_out_kinds(make_params("corruption.kind=drops")) == ["scratch"]


def test_every_test_image_and_its_mask_is_scored_once(tmp_path: Path, make_category) -> None:
    root = make_category(train=24, test_good=3, defects={"spot": 4})
    params = make_params()
    manifest, scores = run(root, tmp_path, params)
    test = scores[scores["split"] == "test"].sort_values("map_index")
    assert test["path"].tolist() == manifest.loc[manifest["split"] == "test", "path"].tolist()
    assert test["map_index"].tolist() == list(range(7))
    masks = TestMaps.read(tmp_path / "evaluation", "mask")
    assert masks.shape == (7, SIDE, SIDE)
    np.testing.assert_array_equal(masks.reshape(7, -1).any(axis=1), test["label"].to_numpy() == 1)
    residual = TestMaps.read(tmp_path / "evaluation", "residual")
    np.testing.assert_allclose(residual.reshape(7, -1).max(axis=1), test["residual_peak"], rtol=1e-6)
    calibration = scores[scores["split"] == "calibration"]
    n = (manifest["split"] == "calibration").sum()
    assert calibration["corruption"].value_counts().to_dict() == {"": n, "scratch": n, "drops": n}


def test_stored_input_is_the_image_in_the_network_s_size(tmp_path: Path, make_category) -> None:
    root = make_category(train=24, test_good=1, defects={"spot": 1}, size=SIDE)
    manifest, _ = run(root, tmp_path, make_params())
    path = manifest.loc[manifest["split"] == "test", "path"].iloc[0]
    with Pillow.open(root / path) as file:
        np.testing.assert_array_equal(TestMaps.read(tmp_path / "evaluation", "input")[0], np.asarray(file))


@pytest.mark.parametrize("test_good", [0, 4])
def test_no_defects_means_held_out_corruptions_and_says_so(tmp_path: Path, make_category, test_good: int) -> None:
    root = make_category(train=40, test_good=test_good, defects={})
    params = make_params()
    manifest, scores = run(root, tmp_path, params)
    jobs = plan_jobs(manifest, params)
    assert [job.corruption for job in jobs if job.synthetic] == ["scratch", "drops"]
    test = scores[scores["split"] == "test"]
    clean = test_good or int((manifest["split"] == "validation").sum())
    assert (test["label"] == 0).sum() == clean
    assert set(test.loc[test["label"] == 1, "defect"]) == {f"{SYNTHETIC}scratch", f"{SYNTHETIC}drops"}
    masks = TestMaps.read(tmp_path / "evaluation", "mask")
    corrupted = test.loc[test["label"] == 1, "map_index"].to_numpy()
    assert masks[corrupted].reshape(len(corrupted), -1).any(axis=1).all()
    found = measure(scores, tmp_path / "evaluation", point=operating_point(scores, params), params=params)
    assert found["synthetic_defects"] is True
    assert found["metrics"][0]["image_auroc"] is not None


def test_corruptions_that_measure_are_not_those_that_chose(tmp_path: Path, make_category) -> None:
    root = make_category(train=40, test_good=0, defects={})
    params = make_params()
    _, scores = run(root, tmp_path, params)
    drawn = scores[scores["corruption"] == "drops"].groupby("split")["residual_l2"].apply(set)
    assert not drawn["calibration"] & drawn["test"]


def test_report_counts_alarms_and_leaves_unmasked_defects_out_of_pixel_metrics(tmp_path: Path, make_category) -> None:
    root = make_category(train=40, test_good=3, defects={"spot": 3}, masks=False)
    params = make_params()
    _, scores = run(root, tmp_path, params)
    point = operating_point(scores, params)
    found = measure(scores, tmp_path / "evaluation", point=point, params=params)
    overall = found["metrics"][0]
    assert overall["image_auroc"] is not None
    assert overall["pixel_auroc"] is overall["aupro"] is overall["pixel_average_precision"] is None
    assert found["n"]["test_defective_without_mask"] == 3
    table = score_table(scores, point=point)
    rejected = table[table["score"] > table["threshold"]]
    alarms = found["alarms"][point.strategy]
    assert alarms["false_alarms"] == (rejected["label"] == 0).sum()
    assert alarms["detected"] == (rejected["label"] == 1).sum()
    assert list(table.columns[:5]) == ["path", "sha256", "split", "defect", "label"]
    np.testing.assert_array_equal(table["score"], table[point.strategy])


@pytest.mark.parametrize("masks", [True, False])
def test_all_figures_are_drawn(tmp_path: Path, make_category, masks: bool) -> None:
    root = make_category(train=24, test_good=2, defects={"spot": 2, "cut": 1}, masks=masks)
    params = make_params()
    _, scores = run(root, tmp_path, params)
    point = operating_point(scores, params)
    metrics = measure(scores, tmp_path / "evaluation", point=point, params=params)
    history = pd.DataFrame(
        {
            "epoch": [0, 1],
            "loss": [0.1, 0.05],
            "psnr": [10.0, 12.0],
            "learning_rate": [0.01] * 2,
            "images_seen": [9, 18],
        }
    )
    files = draw_report(
        tmp_path / "figures",
        history=history,
        best_epoch=1,
        scores=scores,
        evaluation=tmp_path / "evaluation",
        metrics=metrics,
        point=point,
        params=params,
    )
    assert [file.name for file in files] == ["training.png", "roc.png", "pro.png", "scores.png", "panel_1.png"]
    for file in files:
        with Pillow.open(file) as picture:
            assert picture.width > 600


def test_same_seed_scores_the_same(tmp_path: Path, make_category) -> None:
    root = make_category(train=24, test_good=1, defects={"spot": 1})
    _, first = run(root, tmp_path / "a", make_params())
    _, second = run(root, tmp_path / "b", make_params())
    pd.testing.assert_frame_equal(first, second)
    assert {f"{name}_l2" for name in STRATEGIES} <= set(first.columns)
